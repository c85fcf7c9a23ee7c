"""dMel as the front end of an encoder that takes features."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.features.dmel_settings import DMelSettings
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.flat_options import flat_options
from sigmel.layers.masks import valid_frames


@flat_options(DMelSettings)
class DMelFrontend(nn.Module):
    """The values of dMel tokens as features from -1 to 1: an encoder sees what the tokens keep of speech, and no more.

    In training, bands of channels and spans of frames of the log-mel may be hidden (SpecAugment, arXiv 1904.08779)
    before rounding, so that hidden values are those of tokens as well: of silence.

    Args:
        sample_rate: Hz. Default: 16000.
        hop_ms: milliseconds between frames. Default: 10.0, as encoders that subsample by four expect; the tokens of a
            language model are 25.0 apart.
        freq_masks, freq_width: number of bands hidden in training, and the most channels of a band. Defaults: 0, 27.
        time_masks, time_width: number of spans hidden in training, and the longest span as a share of the utterance.
            Defaults: 0 and 0.05.
        ids: give the ids themselves, as floats, for a model that has embeddings of its own. Default: False.
        **settings: others of `sigmel.features.dmel_settings.DMelSettings`.

    Raises:
        SigmelError: a setting out of its range, by name.
    """

    discrete: ClassVar[bool] = True  # mean and variance of tokens must not be normalised

    def __init__(
        self,
        sample_rate: int = 16000,
        hop_ms: float = 10.0,
        *,
        freq_masks: int = 0,
        freq_width: int = 27,
        time_masks: int = 0,
        time_width: float = 0.05,
        ids: bool = False,
        **settings: Any,
    ):
        super().__init__()
        self.tokenizer = DMelTokenizer(sample_rate, hop_ms=hop_ms, **settings)
        channels = self.output_size()
        if min(freq_masks, time_masks) < 0 or not 0 <= freq_width <= channels or not 0 <= time_width <= 1:
            given = f"{freq_masks}, {freq_width}, {time_masks} and {time_width}"
            raise SigmelError(
                f"freq_masks, freq_width, time_masks, time_width: {given}, expected at least 0, the widths up to "
                f"{channels} channels and to 1"
            )
        self.freq_masks, self.freq_width = freq_masks, freq_width
        self.time_masks, self.time_width = time_masks, time_width
        self.ids = ids

    def output_size(self) -> int:
        """The number of channels, C."""
        return len(self.tokenizer.filters)

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features.

        Args:
            waveforms: (B, samples) float in [-1, 1]; samples beyond an utterance's length do not matter.
            lengths: (B,) int64, in samples.

        Returns:
            (B, T, C) features, zero beyond their (B,) lengths; T is at least 1.
        """
        tokenizer = self.tokenizer
        if self.training and (self.freq_masks or self.time_masks):
            log_mel, lengths = tokenizer.log_mel(waveforms, lengths)
            ids = tokenizer.quantize(self._hide(log_mel, lengths))
        else:
            ids, lengths = tokenizer.encode(waveforms, lengths)
        ids = nn.functional.pad(ids, (0, 0, 0, max(0, 1 - ids.shape[1])))
        valid = valid_frames(lengths, ids.shape[1])[..., None]
        if self.ids:
            return ids * valid.float(), lengths
        values = tokenizer.values
        low, high = values.min(), values.max()
        mel = tokenizer.decode(ids, lengths)
        return ((2 * mel - low - high) / (high - low)) * valid, lengths

    def _hide(self, log_mel: Tensor, lengths: Tensor) -> Tensor:
        _, frames, channels = log_mel.shape
        whole = torch.full_like(lengths, channels)
        bands = _spans(self.freq_masks, torch.full_like(lengths, self.freq_width), whole, channels)
        spans = _spans(self.time_masks, (self.time_width * lengths).long(), lengths, frames)
        return log_mel.masked_fill(bands[:, None] | spans[..., None], -torch.inf)


def _spans(count: int, widest: Tensor, whole: Tensor, size: int) -> Tensor:
    """(B, size) bool, true in `count` random spans of 0 to `widest` (B,) of the first `whole` (B,) positions."""
    place = torch.arange(size, device=whole.device)
    inside = torch.zeros(len(whole), size, dtype=torch.bool, device=whole.device)
    for _ in range(count):
        width = (torch.rand(len(whole), device=whole.device) * (widest + 1)).long()
        start = (torch.rand(len(whole), device=whole.device) * (whole - width + 1)).long()
        inside |= (place >= start[:, None]) & (place < (start + width)[:, None])
    return inside
