"""Plots of an experiment: the training curve, and sounds of the same texts side by side."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_rows
from sigmel.files.pictures import load_pyplot, spectrogram
from sigmel.routing_study.plots import expert_use, load_per_layer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curve(metrics: Path) -> Figure:
    """Plot a ``metrics.csv``: loss, word error rate on the development set, attention norm, learning rate."""
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise SigmelError(f"{metrics}: holds no row")

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
    """Plot spectrograms of the same texts in several sets, a column a set: speech of a model beside recordings, say.

    Args:
        rows: set -> id -> row of its manifest; the first set says which texts.
        count: texts, at most. Default: 3.
    """
    sets, texts = list(rows), list(next(iter(rows.values())))[:count]
    figure, grid = load_pyplot().subplots(
        len(texts), len(rows), figsize=(4 * len(rows), 2.2 * len(texts)), layout="constrained", squeeze=False
    )
    for (line, column), axes in np.ndenumerate(grid):
        name, row = sets[column], rows[sets[column]][texts[line]]
        samples, rate = read_audio(row["audio_filepath"])
        seconds = len(samples) / rate
        axes.imshow(
            spectrogram(samples, rate),
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, seconds, 0, rate / 2000),
        )
        axes.set_title(f"{name}: “{row['text']}”", fontsize=9, parse_math=False)
        axes.set(yticks=[])
        axes.locator_params(axis="x", nbins=4)
    for axes in grid[-1]:
        axes.set(xlabel="seconds")
    return figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel plot``."""
    parser.add_argument("experiment", type=Path, help="folder with metrics.csv and decode/<set>.routing.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for the PNG files; must not exist yet")


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel plot``."""
    metrics = args.experiment / "metrics.csv"
    if not metrics.is_file():
        raise SigmelError(f"{metrics}: no such file; train first")
    figures = {"training": training_curve(metrics)}
    for path in sorted((args.experiment / "decode").glob("*.routing.json")):
        name, routing = path.name.removesuffix(".routing.json"), json.loads(path.read_text())
        figures[f"load_{name}"] = load_per_layer(routing, name)
        figures[f"experts_{name}"] = expert_use(routing)
    spoken = args.experiment / "decode/spoken.jsonl"
    if spoken.is_file():
        figures["spoken"] = heard_together(_same_texts(spoken))
    with atomic_dir(args.output) as folder:
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"{args.output}: {', '.join(f'{name}.png' for name in figures)}")
    return 0


def _same_texts(first: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of a decoded set that have sound, and of those beside it that have the same utterances."""
    rows = {}
    for path in sorted(first.parent.glob("*.jsonl"), key=lambda path: (path != first, path.name)):
        if not path.name.endswith(".skipped.jsonl"):
            rows[path.stem] = {row["id"]: row for row in read_rows(path)}
    ids = [name for name, row in rows[first.stem].items() if row["duration"]]
    return {name: {id: of[id] for id in ids} for name, of in rows.items() if of.keys() >= set(ids)}
