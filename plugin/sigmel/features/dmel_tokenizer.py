"""dMel (arXiv 2407.15835, section 2): log-mel as speech tokens, each channel rounded to one of a few values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.features.dmel_settings import DMelSettings
from sigmel.features.float32 import Float32Buffers
from sigmel.features.log_mel import mel_filters
from sigmel.features.special_frames import SpecialIds, add_special, special_ids
from sigmel.files.resampling import resample
from sigmel.flat_options import flat_options
from sigmel.layers.masks import valid_frames
from sigmel.ops import dmel_encode, dmel_encode_spectrum
from sigmel.ops.dmel import reference

BLOCK = 128  # frames whose spectra a thread of a CPU holds at once, so that they fit its caches


@dataclass
class DMelState:
    """The past of streams.

    Attributes:
        samples: (B, n) the last samples, as far as frames to come need them.
        seen: samples of each stream so far.
        frames: frames of each stream so far.
    """

    samples: Tensor
    seen: int = 0
    frames: int = 0


@flat_options(DMelSettings)
class DMelTokenizer(Float32Buffers):
    """Turns waveforms into dMel ids, and ids into log-mel, without anything trained.

    With the default settings the ids are those of the authors' package `dmel`: centred Hann windows of 50 ms with
    reflected samples beyond the ends, magnitudes, Slaney's mel filters, log10, and the nearest of evenly spaced
    values, the lower value of two that are equally near.

    Frame t is centred on sample t * hop, so that N samples give 1 + N // hop frames, and 0 samples give 0 frames. An
    utterance has the same ids alone, in any batch, and streamed.

    Args:
        sample_rate: Hz. Default: 16000.
        **settings: others of `sigmel.features.dmel_settings.DMelSettings`.

    Attributes:
        bins: values a channel.
        pad_id, bos_id, eos_id: bins, bins + 1, bins + 2.
        vocab_size: bins + 3.
        hop: samples between frames.
        look_ahead: samples that a frame needs beyond its centre.

    Raises:
        SigmelError: a setting out of its range, by name.
    """

    window: Tensor  # (samples,)
    filters: Tensor  # (C, n_fft // 2 + 1)
    values: Tensor  # (C, bins)
    edges: Tensor  # (C, bins - 1)

    def __init__(self, sample_rate: int = 16000, **settings: Any):
        super().__init__()
        own = DMelSettings(sample_rate, **settings)
        values = own.values()
        self.config: dict[str, Any] = asdict(own)
        self.sample_rate, self.hop = sample_rate, own.hop
        self.n_fft: int = self.config["n_fft"]
        self.bins = values.shape[1]
        self.pad_id, self.bos_id, self.eos_id = special_ids(self.bins)
        self.vocab_size = self.eos_id + 1
        self._margin = (self.n_fft - own.window) // 2  # zeros before the window, in a transform
        self._before = self.n_fft // 2 - self._margin  # samples of a window before the frame's centre
        self.look_ahead = own.window - self._before
        filters = mel_filters(sample_rate, self.n_fft, own.channels, own.low_hz, own.high_hz)
        self.register_buffer("window", torch.hann_window(own.window), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("values", values, persistent=False)
        self.register_buffer("edges", nearest_edges(values), persistent=False)

    # --- Whole utterances

    @torch.no_grad()
    def encode(
        self, waveform: Tensor, lengths: Tensor | None = None, sample_rate: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokens of waveforms.

        Args:
            waveform: (B, samples) or (samples,) float in [-1, 1]; samples beyond an utterance's length do not matter.
            lengths: (B,) int64, in samples. Default: all samples.
            sample_rate: of the waveform, in Hz, if it differs from the tokenizer's; then the waveform is resampled on
                the CPU (needs soxr).

        Returns:
            (B, T, C) uint8 ids, `pad_id` beyond their ends, and their (B,) lengths.

        Raises:
            SigmelError: wrong shapes or lengths; NaN or infinite samples on a CPU (on a GPU, which would have to be
                waited for, such samples give bin 0).
        """
        waveform, lengths = self._checked(waveform, lengths, sample_rate)
        frames = self.count_frames(lengths)
        ids = waveform.new_full((len(waveform), _most(frames), len(self.filters)), self.pad_id, dtype=torch.uint8)
        for first, spectrum in self._spectra(waveform, lengths, ids.shape[1]):
            ids[:, first : first + spectrum.shape[1]] = dmel_encode_spectrum(spectrum, self.filters, self.edges)
        return ids.masked_fill_(~valid_frames(frames, ids.shape[1])[..., None], self.pad_id), frames

    @torch.no_grad()
    def log_mel(
        self, waveform: Tensor, lengths: Tensor | None = None, sample_rate: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, T, C) log10 of mel magnitudes, 0 beyond their ends, and (B,) lengths; arguments as of `encode`."""
        waveform, lengths = self._checked(waveform, lengths, sample_rate)
        frames = self.count_frames(lengths)
        mel = waveform.new_zeros(len(waveform), _most(frames), len(self.filters))
        for first, spectrum in self._spectra(waveform, lengths, mel.shape[1]):
            mel[:, first : first + spectrum.shape[1]] = reference.log_mel(spectrum, self.filters)
        return mel * valid_frames(frames, mel.shape[1])[..., None], frames

    def quantize(self, log_mel: Tensor) -> Tensor:
        """(..., C) uint8 ids of (..., C) log-mel."""
        return dmel_encode(log_mel, self.edges)

    def decode(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(..., T, C) log-mel of (..., T, C) ids, the lowest value of a channel beyond the (B,) lengths.

        Raises:
            SigmelError: wrong shape or type, or an id that is not that of a bin: out of range, or of a special frame.
        """
        self._check_ids(ids)
        index = ids.long()
        if lengths is not None:
            index = index.masked_fill(~valid_frames(lengths, ids.shape[1])[..., None], 0)
        wrong = (index >= self.bins).nonzero()
        if len(wrong):
            where, found = tuple(wrong[0].tolist()), int(index[tuple(wrong[0])])
            what = f"a {SpecialIds._fields[found - self.bins]} frame" if found < self.vocab_size else "no id"
            place = f"frame {where[-2]}, channel {where[-1]}" + (
                f" of utterance {where[0]}" if len(where) == 3 else ""
            )
            raise SigmelError(f"{place}: {found} is {what}; bins have the ids 0 to {self.bins - 1}")
        channel = torch.arange(ids.shape[-1], device=ids.device)
        return self.values[channel, index]

    def voice_print(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """A vector that tells voices apart, without training: mean and deviation over time of each channel.

        It is the average sound of a voice and its recording. A model that was trained with other vectors of speakers
        takes those in its place.

        Args:
            ids: (B, T, C) uint8.
            lengths: (B,).

        Returns:
            (B, 2 C).
        """
        mel = self.decode(ids, lengths) * valid_frames(lengths, ids.shape[1])[..., None]
        count = lengths.clamp(min=1)[:, None]
        mean = mel.sum(1) / count
        square = mel.square().sum(1) / count
        return torch.cat([mean, (square - mean.square()).clamp(min=0).sqrt()], dim=-1)

    def add_special(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `sigmel.features.special_frames.add_special`."""
        self._check_ids(ids)
        return add_special(ids, lengths, self.bins)

    def count_frames(self, samples: Tensor) -> Tensor:
        """Frames of utterances with (B,) samples: 1 + samples // hop, and 0 of 0."""
        return torch.where(samples > 0, 1 + samples // self.hop, 0)

    # --- Streams

    def initial_state(self, batch_size: int = 1) -> DMelState:
        """The state before the first samples of a batch of streams."""
        return DMelState(self.window.new_zeros(batch_size, 0))

    @torch.no_grad()
    def step(self, chunk: Tensor, state: DMelState) -> tuple[Tensor, DMelState]:
        """The frames that a chunk completes; together they have the ids that `encode` gives for the whole stream.

        A frame comes when the `look_ahead` samples beyond its centre are there (25 ms with the default window); the
        first frames, whose windows are partly reflected, come one sample later.

        Args:
            chunk: (B, n) the next samples of each stream; n may be any number, also 0.
            state: from `initial_state` or the step before.

        Returns:
            (B, t, C) uint8 ids, t >= 0, and the state for the next step.

        Raises:
            SigmelError: a chunk of another batch size; NaN or infinite samples, as for `encode`.
        """
        self._check_waveform(chunk)
        if len(chunk) != len(state.samples):
            raise SigmelError(f"chunk: {len(chunk)} streams, but the state is of {len(state.samples)}")
        samples, seen = torch.cat([state.samples, chunk.float()], dim=1), state.seen + chunk.shape[1]
        # What the first frames reflect lies as far to the right of sample 0 as their windows reach to the left.
        complete = (seen - self.look_ahead) // self.hop + 1 if seen >= max(self.look_ahead, self._before + 1) else 0
        return self._advance(samples, seen, max(complete, state.frames), state.frames)

    @torch.no_grad()
    def finish(self, state: DMelState) -> tuple[Tensor, DMelState]:
        """The last frames (B, t, C) of streams that have ended, whose windows reach beyond the ends; see `step`."""
        total = int(self.count_frames(torch.tensor(state.seen)))
        return self._advance(state.samples, state.seen, total, state.frames)

    def _advance(self, samples: Tensor, seen: int, frames: int, done: int) -> tuple[Tensor, DMelState]:
        lengths = torch.full((len(samples),), seen, device=samples.device)
        ids = [samples.new_zeros(len(samples), 0, len(self.filters), dtype=torch.uint8)]
        for _, spectrum in self._spectra(samples, lengths, frames, done, seen - samples.shape[1]):
            ids.append(dmel_encode_spectrum(spectrum, self.filters, self.edges))
        # The samples that the next frame needs, or the last frames if the stream ends here.
        oldest = max(0, min(frames * self.hop - self._before, seen - self.look_ahead - 1))
        return torch.cat(ids, dim=1), DMelState(samples[:, oldest - (seen - samples.shape[1]) :], seen, frames)

    # --- Common to both

    def _spectra(
        self, samples: Tensor, lengths: Tensor, frames: int, first: int = 0, origin: int = 0
    ) -> Iterator[tuple[int, Tensor]]:
        """Spectra (B, t, bins) of frames `first` to `frames` in blocks, each with the number of its first one.

        `samples` (B, n) begin with sample `origin` of utterances that are (B,) `lengths` long.
        """
        for start, end, inside in self._blocks(lengths, frames, first):
            count = end - start
            left = start * self.hop - self._before
            right = left + (count - 1) * self.hop + len(self.window)
            if inside:
                part = samples[:, left - origin : right - origin]
            else:
                at = reflected(torch.arange(left, right, device=samples.device), lengths) - origin
                part = samples.gather(1, at)
            windows = samples.new_zeros(len(samples), count, self.n_fft)
            middle = windows[..., self._margin : self._margin + len(self.window)]
            torch.mul(part.unfold(1, len(self.window), self.hop), self.window, out=middle)
            yield start, torch.fft.rfft(windows)

    def _blocks(self, lengths: Tensor, frames: int, first: int) -> Iterator[tuple[int, int, bool]]:
        """Ranges of frames that are computed at once, and whether their windows lie within all utterances.

        On a GPU, where memory is plenty and calls are slow, the one range is all frames.
        """
        if lengths.device.type != "cpu":
            yield from [(first, frames, False)] if frames > first else []
            return
        size = max(1, BLOCK * torch.get_num_threads() // max(1, len(lengths)))
        shortest = int(lengths.min()) if len(lengths) else 0
        begin = -(-self._before // self.hop)  # the first frame whose window begins after the beginning
        last = max(begin, (shortest - self.look_ahead) // self.hop + 1)  # the first frame whose window ends too late
        for low, high, inside in ((0, begin, False), (begin, last, True), (last, frames, False)):
            low, high = max(low, first), min(high, frames)
            yield from ((start, min(start + size, high), inside) for start in range(low, high, size))

    def _checked(self, waveform: Tensor, lengths: Tensor | None, sample_rate: int | None) -> tuple[Tensor, Tensor]:
        if waveform.dim() == 1:
            waveform = waveform[None]
        if lengths is None:
            lengths = torch.full(waveform.shape[:1], waveform.shape[-1], device=waveform.device)
        if lengths.shape != (len(waveform),) or lengths.dtype not in (torch.int64, torch.int32):
            raise SigmelError(f"lengths: {lengths.dtype} {tuple(lengths.shape)}, expected int64 ({len(waveform)},)")
        lengths = lengths.to(waveform.device, torch.int64)
        if waveform.device.type == "cpu" and len(lengths):
            low, high = map(int, lengths.aminmax())
            if low < 0 or high > waveform.shape[1]:
                raise SigmelError(
                    f"lengths: {low} to {high}, expected 0 to {waveform.shape[1]}, the samples there are"
                )
        self._check_waveform(waveform, lengths)
        if sample_rate is not None and sample_rate != self.sample_rate:
            return self._resampled(waveform, lengths, sample_rate)
        return waveform.float(), lengths

    def _resampled(self, waveform: Tensor, lengths: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
        if not 8000 <= sample_rate <= 48000:
            raise SigmelError(f"sample_rate: {sample_rate}, expected 8000 to 48000 Hz")
        rows = [
            torch.from_numpy(resample(row[:length].numpy(), sample_rate, self.sample_rate))
            for row, length in zip(waveform.float().cpu(), lengths.tolist(), strict=True)
        ]
        changed = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(waveform.device)
        return changed, torch.tensor([len(row) for row in rows], device=waveform.device)

    def _check_waveform(self, waveform: Tensor, lengths: Tensor | None = None) -> None:
        if waveform.dim() != 2 or not waveform.is_floating_point():
            raise SigmelError(f"waveform: {waveform.dtype} {tuple(waveform.shape)}, expected float (batch, samples)")
        # A sum with an infinite sample or a NaN is not finite.
        if waveform.device.type == "cpu" and not waveform.sum(dtype=torch.float32).isfinite():
            wrong = ~waveform.isfinite()
            if lengths is not None:
                wrong &= valid_frames(lengths, waveform.shape[1])
            if wrong.any():
                utterance, sample = wrong.nonzero()[0].tolist()
                value = waveform[utterance, sample].item()
                raise SigmelError(f"utterance {utterance}, sample {sample}: {value}, expected a finite number")

    def _check_ids(self, ids: Tensor) -> None:
        if ids.dtype != torch.uint8 or ids.dim() not in (2, 3) or ids.shape[-1] != len(self.filters):
            shape = f"{ids.dtype} {tuple(ids.shape)}"
            raise SigmelError(f"ids: {shape}, expected torch.uint8 (batch, frames, {len(self.filters)} channels)")


def _most(frames: Tensor) -> int:
    return int(frames.max()) if len(frames) else 0


def reflected(index: Tensor, lengths: Tensor) -> Tensor:
    """(B, n) positions in [0, length) of (n,) positions anywhere, mirrored at the first and the last position."""
    last = (lengths - 1).clamp(min=0)[:, None]
    at = index.remainder((2 * last).clamp(min=1))
    return torch.minimum(at, 2 * last - at).clamp(min=0)


def nearest_edges(values: Tensor) -> Tensor:
    """(C, bins - 1) edges of (C, bins) values: the least float32 that is nearer to the upper of two values.

    Distances are rounded to float32, so that an edge is not simply the midpoint: it is found by bisection, down to two
    neighbouring floats.
    """
    below, above = low, high = values[:, :-1], values[:, 1:]
    while True:
        middle = low / 2 + high / 2  # one of the two, if there is no float between them
        if ((middle == low) | (middle == high)).all():
            return high.contiguous()
        upper = above - middle < middle - below
        low, high = torch.where(upper, low, middle), torch.where(upper, middle, high)
