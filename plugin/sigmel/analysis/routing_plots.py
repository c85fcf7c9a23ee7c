"""Plots of `sigmel routing`, from its tables; those of load and of one utterance stand in `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmel.analysis.plots import load_pyplot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Sequence[dict[str, Any]]


def entropies(layers: Table) -> Figure:
    """Plot the router's entropy in each layer, and that of a router that cannot decide."""
    figure, axes = load_pyplot().subplots(figsize=(6, 3), layout="constrained")
    numbers = [row["layer"] for row in layers]
    axes.plot(numbers, [row["entropy"] for row in layers], "o-", label="router")
    axes.plot(numbers, [np.log(row["experts"]) for row in layers], "--", color="grey", label="uniform")
    axes.set(xlabel="layer", ylabel="entropy (nats)", ylim=(0, None), xticks=numbers)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def overlaps(pairs: Table, layers: int) -> Figure:
    """Plot each measure of agreement as a matrix over the layers; what is not defined stays white."""
    titles = {"cramers_v": "Cramér's V", "mutual_information": "mutual information", "jaccard": "Jaccard overlap"}
    size = 1.8 + 0.28 * layers
    figure, all_axes = load_pyplot().subplots(1, 3, figsize=(3 * size, size), layout="constrained")
    for axes, (name, title) in zip(all_axes, titles.items(), strict=True):
        matrix = np.full((layers, layers), np.nan)
        for row in pairs:
            if row[name] is not None:
                one, other = row["layer"] - 1, row["other"] - 1
                matrix[one, other] = matrix[other, one] = row[name]
        extent = (0.5, layers + 0.5, layers + 0.5, 0.5)
        image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1, extent=extent)
        axes.set(xlabel="layer", ylabel="layer", title=title)
    figure.colorbar(image, ax=all_axes)
    return figure


def coverage(table: Table) -> Figure:
    """Plot the share of frames on the most frequent paths, and what independent layers would give."""
    figure, axes = load_pyplot().subplots(figsize=(6, 3.4), layout="constrained")
    for column, style, label in (("share", "o-", "model"), ("independent", "--", "layers independent")):
        axes.plot([row["paths"] for row in table], [100 * row[column] for row in table], style, label=label)
    axes.set(xlabel="most frequent paths", ylabel="frames (%)", xscale="log", ylim=(0, 101))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def segments(table: Table) -> Figure:
    """Plot how long each layer stays with one expert, and how long by chance; a dot is an expert."""
    figure, axes = load_pyplot().subplots(figsize=(6, 3.4), layout="constrained")
    whole = [row for row in table if row["expert"] is None]
    numbers = [row["layer"] for row in whole]
    axes.plot(numbers, [1000 * row["mean_seconds"] for row in whole], "o-", label="model")
    axes.plot(numbers, [1000 * row["independent"] for row in whole], "--", color="grey", label="frames independent")
    single = [row for row in table if row["expert"] is not None]
    axes.plot(
        [row["layer"] for row in single], [1000 * row["mean_seconds"] for row in single], ".", label="one expert"
    )
    axes.set(xlabel="layer", ylabel="mean segment (ms)", ylim=(0, None), xticks=numbers)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def labels(table: Table, kind: str, layer: int, most: int = 40) -> Figure:
    """Plot which experts of one layer the frames of the most frequent tokens or phones (`kind`) go to.

    They stand in the order of their most frequent experts.
    """
    rows = [row for row in table if row["layer"] == layer][:most]
    rows.sort(key=lambda row: (row["expert"], -row["share"]))
    shares = np.array([row["shares"] for row in rows])
    figure, axes = load_pyplot().subplots(
        figsize=(2.2 + 0.6 * shares.shape[1], 1.4 + 0.22 * len(rows)), layout="constrained"
    )
    image = axes.imshow(100 * shares, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set(xlabel="expert", ylabel=kind, title=f"layer {layer}", xticks=range(shares.shape[1]))
    axes.set_yticks(range(len(rows)), [row[kind] for row in rows], fontsize=8, parse_math=False)
    figure.colorbar(image, label=f"frames of the {kind} (%)")
    return figure


def robustness(table: Table) -> Figure:
    """Plot what each disturbance does: word error rate where there is one, else the change of the output."""
    undisturbed = table[0]
    measure, label, scale = ("wer", "WER (%)", 1) if undisturbed["wer"] is not None else ("change", "change (%)", 100)
    kinds = {"shuffle": "shuffled, seed", "paths": "paths kept", "noise": "noise on the scores"}
    figure, all_axes = load_pyplot().subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axes, (kind, title) in zip(all_axes, kinds.items(), strict=True):
        rows = [row for row in table if row["disturbance"] == kind]
        names = [str(row["seed"] if kind == "shuffle" else row["value"]) for row in rows]
        axes.bar(names, [scale * row[measure] for row in rows])
        axes.axhline(scale * undisturbed[measure], color="black", linestyle="--", label="undisturbed")
        axes.set(xlabel=title)
        axes.grid(alpha=0.3, axis="y")
    all_axes[0].set(ylabel=label)
    all_axes[0].legend()
    return figure
