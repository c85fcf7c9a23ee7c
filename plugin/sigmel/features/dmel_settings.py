"""The settings of dMel: frames, mel filters, and the values that a channel is rounded to."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.features.special_frames import SpecialIds

Codebook = np.ndarray | list[list[float]] | str | os.PathLike[str]


@dataclass(frozen=True)
class DMelSettings:
    """Settings of dMel (arXiv 2407.15835, section 2). The defaults are those of the authors' package `dmel`.

    Args:
        sample_rate: Hz, 8000 to 48000. Default: 16000.
        hop_ms: milliseconds between frames. Default: 25.0.
        bits: 1 to 7; a channel has 2 ** bits values. Default: 4.
        window_ms: milliseconds. Default: 50.0.
        channels: C. Default: 80.
        low_hz, high_hz: span of the mel filters. Defaults: 80.0, and 0.475 times the sample rate (7600 for 16000).
        n_fft: points of the transform; None is the next power of two of the window. Default: None.
        low, high: the range of the values, in log10. Defaults: -7.0 and 2.0.
        codebook: values of each channel instead of `bits`, `low` and `high`: (C, bins) ascending, at most 253 bins, as
            an array, nested lists or a .npy file. Default: None.

    Attributes:
        high_hz, n_fft, codebook: the numbers that are used; `codebook` is nested lists or None.
        hop, window: samples between frames, and of a window.

    Raises:
        SigmelError: a setting out of its range, by name.
    """

    sample_rate: int = 16000
    hop_ms: float = 25.0
    bits: int = 4
    window_ms: float = 50.0
    channels: int = 80
    low_hz: float = 80.0
    high_hz: float | None = None
    n_fft: int | None = None
    low: float = -7.0
    high: float = 2.0
    codebook: Codebook | None = None

    def __post_init__(self) -> None:
        if not 8000 <= self.sample_rate <= 48000:
            raise SigmelError(f"sample_rate: {self.sample_rate}, expected 8000 to 48000 Hz")
        high_hz, most = 0.475 * self.sample_rate if self.high_hz is None else self.high_hz, self.sample_rate / 2
        if not 0 <= self.low_hz < high_hz <= most:
            raise SigmelError(f"low_hz, high_hz: {self.low_hz} and {high_hz}, expected 0 <= low < high <= {most}")
        for name, number in (("hop_ms", self.hop), ("window_ms", self.window), ("channels", self.channels)):
            if number < 1:
                raise SigmelError(f"{name}: too small, expected at least one sample, or channel")
        n_fft = self.n_fft or 2 ** math.ceil(math.log2(self.window))
        if n_fft < self.window:
            raise SigmelError(f"n_fft: {n_fft} is less than the window, {self.window} samples")
        codebook = None if self.codebook is None else read_codebook(self.codebook, self.channels).tolist()
        for name, value in {"high_hz": high_hz, "n_fft": n_fft, "codebook": codebook}.items():
            object.__setattr__(self, name, value)  # settings are saved and compared as they are used

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return round(self.sample_rate * self.hop_ms / 1000)

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(self.sample_rate * self.window_ms / 1000)

    def values(self) -> Tensor:
        """(C, bins) float32, ascending."""
        if self.codebook is None:
            return evenly_spaced(self.bits, self.low, self.high, self.channels)
        return torch.tensor(self.codebook)


def evenly_spaced(bits: int, low: float, high: float, channels: int) -> Tensor:
    """(C, 2^bits) values from `low` to about `high`; the step has four decimals, as in the authors' package."""
    if not 1 <= bits <= 7:
        raise SigmelError(f"bits: {bits}, expected 1 to 7")
    if not low < high:
        raise SigmelError(f"low, high: {low} and {high}, expected low < high")
    step = np.round((high - low) / (2**bits - 1), 4)
    values = np.array([low + n * step for n in range(2**bits)], dtype=np.float64)
    return torch.from_numpy(np.tile(values.astype(np.float32), (channels, 1)))


def read_codebook(codebook: Codebook, channels: int) -> Tensor:
    """(C, bins) float32 values of a codebook, which may be a .npy file.

    Raises:
        SigmelError: no such file, another shape, or values that do not ascend; the message names the file.
    """
    name = f"codebook {codebook}" if isinstance(codebook, (str, os.PathLike)) else "codebook"
    if isinstance(codebook, (str, os.PathLike)):
        try:
            codebook = np.load(Path(codebook), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise SigmelError(f"{name}: cannot be read: {error}") from error
    try:
        values = torch.from_numpy(np.array(codebook, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise SigmelError(f"{name}: not an array of numbers: {error}") from error
    most = 256 - len(SpecialIds._fields)
    if values.dim() != 2 or len(values) != channels or not 2 <= values.shape[1] <= most:
        raise SigmelError(f"{name}: shape {tuple(values.shape)}, expected ({channels} channels, 2 to {most} bins)")
    if not (values.isfinite().all() and (values.diff(dim=1) > 0).all()):
        raise SigmelError(f"{name}: the values of a channel must be finite, and each greater than the one before")
    return values
