"""Matplotlib for all pictures, and a spectrogram for the eye."""

from __future__ import annotations

from typing import Any

import numpy as np

from sigmel.errors import SigmelError


def load_pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files.

    Raises:
        SigmelError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise SigmelError("plots need matplotlib: pip install 'sigmel[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def spectrogram(samples: np.ndarray, sample_rate: int, bins: int = 64) -> np.ndarray:
    """A log-mel spectrogram in dB for the eye: (bins, frames), windows of 25 ms every 10 ms."""
    window, hop = int(0.025 * sample_rate), int(0.01 * sample_rate)
    padded = np.pad(samples, window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2  # (frames, 257)
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bins + 2) / 2595) - 1)
    frequencies = np.linspace(0, sample_rate / 2, power.shape[1])
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    energy = np.clip(np.minimum(rising, falling), 0, None) @ power.T
    decibels = 10 * np.log10(np.maximum(energy, 1e-10))
    return np.maximum(decibels, decibels.max() - 80)
