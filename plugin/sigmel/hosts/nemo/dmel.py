"""dMel as NeMo's preprocessor: `_target_: sigmel.hosts.nemo.DMelPreprocessor`."""

from __future__ import annotations

from typing import Any

from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
from torch import Tensor

from sigmel.features.dmel_frontend import DMelFrontend


class DMelPreprocessor(AudioToMelSpectrogramPreprocessor):
    """The values of dMel tokens where NeMo expects a mel spectrogram.

    Args:
        sample_rate: Hz. Default: 16000.
        window_size: seconds. Default: 0.05.
        window_stride: seconds between frames. Default: 0.01.
        features: channels. Default: 80.
        **options: other options of `sigmel.features.dmel_frontend.DMelFrontend`: bits, codebook, freq_masks, ...
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float = 0.05,
        window_stride: float = 0.01,
        features: int = 80,
        **options: Any,
    ):
        # The constructor of the parent's parent, since that of the parent makes the parent's features.
        super(AudioToMelSpectrogramPreprocessor, self).__init__(
            round(window_size * sample_rate), round(window_stride * sample_rate)
        )
        self._sample_rate = sample_rate
        self.featurizer = DMelFrontend(
            sample_rate, 1000 * window_stride, window_ms=1000 * window_size, channels=features, **options
        )
        for name in ("dither", "pad_to"):  # which NeMo reads and sets when it transcribes
            setattr(self.featurizer, name, 0)

    def get_features(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) features and their (B,) lengths."""
        features, lengths = self.featurizer(input_signal, length)
        return features.transpose(1, 2), lengths

    @property
    def filter_banks(self) -> Tensor:
        """(1, C, bins of the transform)."""
        return self.featurizer.tokenizer.filters[None]
