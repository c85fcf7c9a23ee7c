"""Another sample rate for a waveform."""

from __future__ import annotations

import numpy as np

from sigmel.errors import optional_library


def resample(samples: np.ndarray, from_rate: float, to_rate: float) -> np.ndarray:
    """Change the sample rate of float32 samples of shape (samples,); at least one sample comes back."""
    soxr = optional_library("soxr", "resampling needs", "pip install soxr")
    resampled = soxr.resample(samples, from_rate, to_rate)
    return resampled if len(resampled) else samples[:1]
