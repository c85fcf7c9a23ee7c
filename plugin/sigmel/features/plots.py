"""Plots of sound: a spectrogram, and what dMel keeps of an utterance; and Matplotlib for all plots."""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sigmel.errors import optional_library
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.log_mel import LogMel
from sigmel.features.phase import PhaseReconstruction
from sigmel.files.audio import read_audio

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def load_pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files.

    Raises:
        SigmelError: Matplotlib is not installed.
    """
    optional_library("matplotlib", "plots need", "pip install 'sigmel[plot]'").use("Agg")
    return import_module("matplotlib.pyplot")


def spectrogram(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """A log-mel spectrogram for the eye: (64, frames) in dB, every 10 ms, at most 80 dB below the loudest.

    Args:
        samples: (N,) the audio.
        sample_rate: Hz.
    """
    log_mel = LogMel(sample_rate, features=64, preemph=0.0, normalize=None, dither=0.0)
    energy, _ = log_mel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    decibels = 10 / math.log(10) * energy[0].T.numpy()
    return np.maximum(decibels, decibels.max() - 80)


def draw_spectrogram(axes: Any, path: str, title: str, **font: Any) -> Any:
    """Draw the `spectrogram` of an audio file over seconds and mel channels; return Matplotlib's image."""
    samples, sample_rate = read_audio(path)
    energy = spectrogram(samples, sample_rate)
    axes.set_title(title, parse_math=False, **font)  # a dollar sign is no formula
    extent = (0, len(samples) / sample_rate, 0, len(energy))
    return axes.imshow(energy, origin="lower", aspect="auto", cmap="magma", extent=extent)


def draw_dmel(tokenizer: DMelTokenizer, ids: Tensor, samples: np.ndarray | None = None) -> Figure:
    """Draw an utterance: audio, log-mel, dMel, and the log-mel of the audio that is made of dMel again.

    Args:
        tokenizer: the tokenizer that made the ids.
        ids: (1, T, C).
        samples: (N,) the audio, at the tokenizer's rate. Default: None, which draws the audio made of dMel in its
            place, and no log-mel above dMel.
    """
    kept = tokenizer.decode(ids)
    made, _ = PhaseReconstruction(tokenizer)(kept)
    audio = made[0].numpy() if samples is None else samples
    pictures = {"dMel": kept[0]}
    if samples is not None:
        pictures = {"log-mel": tokenizer.log_mel(torch.from_numpy(samples))[0][0], **pictures}
    pictures["log-mel of the audio made of dMel"] = tokenizer.log_mel(made)[0][0]
    low, high = float(tokenizer.values.min()), float(tokenizer.values.max())
    seconds = np.arange(len(audio)) / tokenizer.sample_rate
    limits = (0, len(audio) / tokenizer.sample_rate)
    figure, (top, *others) = load_pyplot().subplots(
        1 + len(pictures), 1, figsize=(9, 1.2 + 2 * len(pictures)), sharex=True,
        height_ratios=[1, *([2] * len(pictures))], layout="constrained",
    )  # fmt: skip
    top.plot(seconds, audio, linewidth=0.4, color="tab:blue")
    top.set(ylabel="audio" if samples is not None else "made of dMel", xlim=limits, ylim=(-1, 1))
    for axes, (name, picture) in zip(others, pictures.items(), strict=True):
        half = tokenizer.hop / tokenizer.sample_rate / 2
        extent = (-half, (2 * len(picture) - 1) * half, 0, picture.shape[1])
        image = axes.imshow(picture.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
        axes.set(ylabel="channel", title=name)
    others[-1].set(xlabel="seconds", xlim=limits)
    figure.colorbar(image, ax=others, label="log10 of mel magnitude")
    return figure
