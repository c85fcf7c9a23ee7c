"""Plots of an experiment: the training curve, and the audio of the same texts side by side."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmel.errors import SigmelError
from sigmel.features.plots import draw_spectrogram, load_pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curve(metrics: Path) -> Figure:
    """Plot a `metrics.csv`: loss, word error rate on the development set, attention norm, learning rate.

    Raises:
        SigmelError: the file has no row.
    """
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise SigmelError(f"{metrics}: has no row")

    def column(name: str) -> tuple[list[int], list[float]]:
        found = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        return [step for step, _ in found], [value for _, value in found]

    figure, (top, middle, bottom) = load_pyplot().subplots(
        3, 1, figsize=(8, 6.5), sharex=True, height_ratios=[3, 1, 1], layout="constrained"
    )
    top.plot(*column("train_loss"), color="tab:blue", label="training loss")
    top.plot(*column("val_loss"), "o-", color="tab:cyan", label="development loss")
    top.set(ylabel="loss", yscale="log", title="Training")
    right = top.twinx()
    steps, rate = column("val_wer")
    right.plot(steps, [100 * value for value in rate], "s-", color="tab:red", label="development WER")
    right.set(ylabel="WER (%)", ylim=(0, None))
    handles = [*top.get_lines(), *right.get_lines()]
    top.legend(handles, [str(line.get_label()) for line in handles], loc="upper right")
    middle.plot(*column("attention_norm"), color="tab:purple")
    middle.set(ylabel="attention norm", ylim=(0, None))
    bottom.plot(*column("learning_rate"), color="tab:green")
    bottom.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    return figure


def heard_together(rows: dict[str, dict[str, dict[str, Any]]], count: int = 3) -> Figure:
    """Plot spectrograms of the same texts in several sets, a column a set: a model's speech beside recordings, say.

    Args:
        rows: set -> id -> row of its manifest. The texts are those of the first set.
        count: number of texts, at most. Default: 3.
    """
    sets, texts = list(rows), list(next(iter(rows.values())))[:count]
    figure, grid = load_pyplot().subplots(
        len(texts), len(rows), figsize=(4 * len(rows), 2.2 * len(texts)), layout="constrained", squeeze=False
    )
    for (line, column), axes in np.ndenumerate(grid):
        name, row = sets[column], rows[sets[column]][texts[line]]
        draw_spectrogram(axes, row["audio_filepath"], f"{name}: “{row['text']}”", fontsize=9)
        axes.set(yticks=[])
        axes.locator_params(axis="x", nbins=4)
    for axes in grid[-1]:
        axes.set(xlabel="seconds")
    return figure
