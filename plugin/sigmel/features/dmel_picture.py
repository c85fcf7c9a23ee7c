"""A picture of what dMel keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sigmel.features.dmel import DMelTokenizer
from sigmel.features.phase import PhaseReconstruction
from sigmel.files.pictures import load_pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_dmel(tokenizer: DMelTokenizer, ids: Tensor, samples: np.ndarray | None = None) -> Figure:
    """Draw an utterance: audio, log-mel, dMel, and the log-mel of the sound that is made of dMel again.

    Args:
        tokenizer: of the ids.
        ids: (1, T, C).
        samples: (N,) the audio, at the tokeniser's rate; without it, the made sound stands first, and no log-mel.
    """
    kept = tokenizer.decode(ids)
    made, _ = PhaseReconstruction(tokenizer)(kept)
    audio = made[0].numpy() if samples is None else samples
    pictures = {"dMel": kept[0]}
    if samples is not None:
        pictures = {"log-mel": tokenizer.log_mel(torch.from_numpy(samples))[0][0], **pictures}
    pictures["log-mel of the sound made of dMel"] = tokenizer.log_mel(made)[0][0]
    seconds, low, high = (
        len(audio) / tokenizer.sample_rate,
        float(tokenizer.values.min()),
        float(tokenizer.values.max()),
    )
    figure, (top, *others) = load_pyplot().subplots(
        1 + len(pictures), 1, figsize=(9, 1.2 + 2 * len(pictures)), sharex=True,
        height_ratios=[1, *([2] * len(pictures))], layout="constrained",
    )  # fmt: skip
    top.plot(np.arange(len(audio)) / tokenizer.sample_rate, audio, linewidth=0.4, color="tab:blue")
    top.set(ylabel="audio" if samples is not None else "sound", xlim=(0, seconds), ylim=(-1, 1))
    for axes, (name, picture) in zip(others, pictures.items(), strict=True):
        half = tokenizer.hop / tokenizer.sample_rate / 2
        extent = (-half, (2 * len(picture) - 1) * half, 0, picture.shape[1])
        image = axes.imshow(picture.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="magma")
        axes.set(ylabel="channel", title=name)
    others[-1].set(xlabel="seconds", xlim=(0, seconds))
    figure.colorbar(image, ax=others, label="log10 of mel magnitude")
    return figure
