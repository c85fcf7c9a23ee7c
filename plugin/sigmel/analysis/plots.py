"""Plots of an experiment: training curve, load per layer, expert use over one utterance."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmel.data.atomic import atomic_dir
from sigmel.data.audio import read_audio
from sigmel.data.manifest import read_rows
from sigmel.errors import SigmelError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_mel(samples: np.ndarray, sample_rate: int, bins: int = 64) -> np.ndarray:
    """Return a log-mel spectrogram in dB for the eye: (bins, frames), windows of 25 ms every 10 ms."""
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


def load_per_layer(report: dict[str, Any], name: str) -> Figure:
    """Plot the share of frames each expert of each layer got."""
    layers = report["layers"]
    experts = max(len(layer["load"]) for layer in layers)
    load = np.full((len(layers), experts), np.nan)
    for index, layer in enumerate(layers):
        load[index, : len(layer["load"])] = layer["load"]
    figure, axes = load_pyplot().subplots(figsize=(1.6 + experts * 0.9, 1.4 + len(layers) * 0.5), layout="constrained")
    image = axes.imshow(100 * load, cmap="viridis", vmin=0, aspect="auto")
    for (layer, expert), share in np.ndenumerate(load):
        if not np.isnan(share):
            shade = "black" if share > np.nanmax(load) / 2 else "white"
            axes.text(expert, layer, f"{100 * share:.0f}", ha="center", va="center", color=shade, fontsize=9)
    axes.set(xlabel="expert", ylabel="layer", title=f"Load, {name}", xticks=range(experts), yticks=range(len(layers)))
    axes.set_yticklabels([str(layer + 1) for layer in range(len(layers))])
    figure.colorbar(image, label="frames (%)")
    return figure


def expert_use(report: dict[str, Any]) -> Figure:
    """Plot an utterance's log-mel spectrogram, and below it the first expert of each layer at each time.

    Where the utterance has "phones" (see `sigmel.analysis.phones`), these stand in the spectrogram.
    """
    utterance = report["utterance"]
    samples, sample_rate = read_audio(utterance["audio_filepath"])
    experts = np.array(utterance["experts"])  # (layers, frames)
    seconds = len(samples) / sample_rate
    pyplot = load_pyplot()
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(10, 3.4 + 0.35 * len(experts)), sharex=True, height_ratios=[1.2, 1], layout="constrained"
    )
    image = top.imshow(
        log_mel(samples, sample_rate), origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, 64)
    )
    for start, end, phone in utterance.get("phones") or ():
        top.axvline(start, color="white", linewidth=0.5, alpha=0.5)
        middle = (start + end) / 2
        top.text(middle, 59, phone, color="white", ha="center", fontsize=8, clip_on=True, parse_math=False)
    top.set(ylabel="mel channel")
    top.set_title(f"“{utterance['text']}”", parse_math=False)  # a dollar sign is one
    figure.colorbar(image, ax=top, label="energy (dB)")
    count = max(len(layer["load"]) for layer in report["layers"])
    colours = pyplot.get_cmap("tab20" if count > 10 else "tab10", max(count, 2))
    image = bottom.imshow(
        experts,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        vmin=-0.5,
        vmax=colours.N - 0.5,
        extent=(0, experts.shape[1] * utterance["frame_seconds"], len(experts) + 0.5, 0.5),
    )
    bottom.set(xlabel="time (s)", ylabel="layer", yticks=range(1, len(experts) + 1), xlim=(0, seconds))
    figure.colorbar(image, ax=bottom, label="expert", ticks=range(count))
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
            log_mel(samples, rate), origin="lower", aspect="auto", cmap="magma", extent=(0, seconds, 0, rate / 2000)
        )
        axes.set_title(f"{name}: “{row['text']}”", fontsize=9, parse_math=False)
        axes.set(yticks=[])
        axes.locator_params(axis="x", nbins=4)
    for axes in grid[-1]:
        axes.set(xlabel="seconds")
    return figure


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
