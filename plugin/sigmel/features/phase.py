"""Streaming phase reconstruction: sound from log-mel without a trained vocoder.

Zhu, Beauregard and Wyse, "Real-time signal estimation from modified short-time Fourier transform magnitude spectra"
(2007): RTISI-LA, the iterations of Griffin and Lim (1984) over the newest frames only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.float32 import Float32Buffers
from sigmel.layers.masks import valid_frames

SILENT = 1e-7  # a magnitude that has no phase


@dataclass
class PhaseState:
    """The past of streams; N is the length of a transform.

    Attributes:
        last: (B, 1, C) the last log-mel frame, from which frames up to the next are interpolated.
        magnitudes: (B, k, bins) of the k frames whose phases may still change.
        frames: (B, k, N) these k frames as windowed waveforms.
        settled: (B, N) the sum of all settled frames at the samples from the first of the k frames on.
        skip: the number of next samples that lie before the beginning of the sound.
    """

    last: Tensor
    magnitudes: Tensor
    frames: Tensor
    settled: Tensor
    skip: int


class PhaseReconstruction(Float32Buffers):
    """A vocoder without trained weights; streamed and offline, it gives the same samples.

    The magnitudes of a spectrum that the tokenizer's filters would turn into the mel magnitudes are found by
    multiplicative updates (Lee and Seung, 2001). Phases of frames that overlap by less than three quarters are not
    determined well, so that log-mel is interpolated in time: with the tokenizer's defaults to twice as many frames,
    12.5 ms apart.

    Args:
        tokenizer: made the log-mel.
        look_ahead: number of interpolated frames after a frame that its phase depends on. Default: 2.
        iterations: for each new frame. Default: 4.
    """

    config: dict[str, Any]  # of the tokenizer

    window: Tensor  # (N,)
    envelope: Tensor  # (hop,)
    unit: Tensor  # a phase of zero
    mel_index: Tensor  # (C, K) bins that a filter has weights for
    mel_weights: Tensor
    bin_index: Tensor  # (bins, L) filters that have weights for a bin
    bin_weights: Tensor

    def __init__(self, tokenizer: DMelTokenizer, look_ahead: int = 2, iterations: int = 4):
        super().__init__()
        if look_ahead < 0 or iterations < 1:
            raise SigmelError(f"look_ahead, iterations: {look_ahead} and {iterations}, expected at least 0 and 1")
        self.config = tokenizer.config
        self.sample_rate, self.look_ahead, self.iterations = tokenizer.sample_rate, look_ahead, iterations
        wanted = math.ceil(4 * tokenizer.hop / len(tokenizer.window))
        self.factor = next((n for n in range(wanted, 2 * wanted + 1) if tokenizer.hop % n == 0), 1)
        self.hop = tokenizer.hop // self.factor
        size, margin = tokenizer.n_fft, (tokenizer.n_fft - len(tokenizer.window)) // 2
        window = torch.zeros(size)
        window[margin : margin + len(tokenizer.window)] = tokenizer.window
        squares = torch.nn.functional.pad(window.square(), (0, -size % self.hop))
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("envelope", squares.view(-1, self.hop).sum(0), persistent=False)
        self.register_buffer("unit", torch.tensor([1.0, 0.0]), persistent=False)
        for name, matrix in (("mel", tokenizer.filters), ("bin", tokenizer.filters.T)):
            index, weights = _bands(matrix)
            self.register_buffer(f"{name}_index", index, persistent=False)
            self.register_buffer(f"{name}_weights", weights, persistent=False)

    @torch.no_grad()
    def forward(self, log_mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms of log-mel.

        Args:
            log_mel: (B, T, C) log10 of mel magnitudes, as of `DMelTokenizer.decode`.
            lengths: (B,) int64 frames. Default: all.

        Returns:
            (B, samples) float32, zero beyond their lengths, and these (B,) lengths, (T - 1) * hop of the tokenizer.
        """
        if lengths is None:
            lengths = torch.full((len(log_mel),), log_mel.shape[1], device=log_mel.device)
        state = self.initial_state(len(log_mel))
        samples, state = self._run(log_mel, state, lengths)
        waveform = torch.cat([samples, self.finish(state)], dim=1)
        lengths = (lengths - 1).clamp(min=0) * self.hop * self.factor
        return waveform * valid_frames(lengths, waveform.shape[1]), lengths

    def initial_state(self, batch_size: int = 1) -> PhaseState:
        """The state before the first frames of a batch of streams."""
        empty, size = self.window.new_zeros(batch_size, 0, len(self.mel_index)), len(self.window)
        magnitudes, frames = empty.new_zeros(batch_size, 0, size // 2 + 1), empty.new_zeros(batch_size, 0, size)
        return PhaseState(empty, magnitudes, frames, empty.new_zeros(batch_size, size), size // 2)

    @torch.no_grad()
    def step(self, log_mel: Tensor, state: PhaseState) -> tuple[Tensor, PhaseState]:
        """The samples, (B, n), that the next frames (B, t, C) complete."""
        return self._run(log_mel, state)

    @torch.no_grad()
    def finish(self, state: PhaseState) -> Tensor:
        """The last samples, (B, n), of streams that have ended: up to the centre of the last frame."""
        state = replace(state)
        silence = self.window.new_zeros(len(state.settled), 1, len(self.bin_index))
        samples = [self._push(silence, state) for _ in range(self.look_ahead)]
        left = state.settled / self._envelope_of(state.settled)
        return torch.cat([*samples, left[:, state.skip : len(self.window) // 2 - self.hop]], dim=1)

    def _run(self, log_mel: Tensor, state: PhaseState, lengths: Tensor | None = None) -> tuple[Tensor, PhaseState]:
        begun = state.last.shape[1]
        known = torch.cat([state.last, log_mel.float()], dim=1)
        if not known.shape[1]:
            return known.new_zeros(len(known), 0), state
        # The first frame, and the places between two frames.
        at = torch.arange(begun, (known.shape[1] - 1) * self.factor + 1, device=known.device) / self.factor
        low = at.long()
        part = (at - low)[:, None]
        between = known[:, low].lerp(known[:, (low + 1).clamp(max=known.shape[1] - 1)], part)
        magnitudes = self._spectra((10 ** between.double()).float())
        if lengths is not None:
            exists = valid_frames((lengths - 1) * self.factor + 1, magnitudes.shape[1])
            magnitudes = magnitudes * exists[..., None]
        samples = [known.new_zeros(len(known), 0)]
        state = replace(state, last=known[:, -1:])
        for number in range(magnitudes.shape[1]):
            samples.append(self._push(magnitudes[:, number : number + 1], state))
        return torch.cat(samples, dim=1), state

    def _push(self, magnitudes: Tensor, state: PhaseState) -> Tensor:
        """Take a frame's magnitudes (B, 1, bins) into the state; the samples of the frame that settles, if any."""
        state.magnitudes = torch.cat([state.magnitudes, magnitudes], dim=1)
        state.frames = torch.cat([state.frames, state.frames.new_zeros(len(state.frames), 1, len(self.window))], dim=1)
        for _ in range(self.iterations):
            total = self._overlapped(state)
            waveform = total / self._envelope_of(total)
            spectrum = torch.fft.rfft(waveform.unfold(1, len(self.window), self.hop) * self.window)
            # For complex numbers, torch rounds some functions differently at the end of a vector: see `_bands`.
            parts = torch.view_as_real(spectrum)
            size = parts.square().sum(-1, keepdim=True).sqrt()
            phase = torch.where(size > SILENT, parts / size.clamp(min=SILENT), self.unit)
            turned = torch.view_as_complex(state.magnitudes[..., None] * phase)
            state.frames = torch.fft.irfft(turned, len(self.window)) * self.window
        if state.frames.shape[1] <= self.look_ahead:
            return state.settled[:, :0]
        state.settled = state.settled + state.frames[:, 0]
        samples = state.settled[:, : self.hop] / self.envelope
        state.settled = torch.nn.functional.pad(state.settled[:, self.hop :], (0, self.hop))
        state.magnitudes, state.frames = state.magnitudes[:, 1:], state.frames[:, 1:]
        skipped = min(state.skip, self.hop)
        state.skip -= skipped
        return samples[:, skipped:]

    def _overlapped(self, state: PhaseState) -> Tensor:
        """(B, n) sum of the settled frames and the others, from the first of the others on."""
        count = max(state.frames.shape[1], 1)
        total = torch.nn.functional.pad(state.settled, (0, (count - 1) * self.hop))
        for number, frame in enumerate(state.frames.unbind(1)):
            total[:, number * self.hop : number * self.hop + len(self.window)] += frame
        return total

    def _envelope_of(self, total: Tensor) -> Tensor:
        """(n,) sum of the squares of all windows that overlap at a sample, with those of frames that do not exist."""
        return self.envelope.repeat(math.ceil(total.shape[1] / self.hop))[: total.shape[1]]

    def _spectra(self, mel: Tensor, updates: int = 30) -> Tensor:
        """(..., bins) magnitudes, at least 0, which the mel filters turn into mel magnitudes (..., C)."""
        wanted = _product(mel, self.bin_index, self.bin_weights)
        magnitudes = wanted.clamp(min=1e-8)
        for _ in range(updates):
            found = _product(magnitudes, self.mel_index, self.mel_weights)
            magnitudes = magnitudes * wanted / (_product(found, self.bin_index, self.bin_weights) + 1e-12)
        return magnitudes


def _bands(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of a matrix (rows, columns), the columns that are not 0, (rows, K), and the values there.

    A product with such a row is summed in the same order in any batch, unlike a product of matrices: the smallest
    difference in rounding would lead to other phases.
    """
    most = int((matrix != 0).sum(1).max())
    index = (matrix == 0).int().sort(dim=1, stable=True).indices[:, :most]
    return index, matrix.gather(1, index)


def _product(x: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    return (x[..., index] * weights).sum(-1)
