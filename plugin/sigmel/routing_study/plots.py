"""Plots of what routers do: of one utterance, and of the tables of `sigmel routing`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmel.features.plots import draw_spectrogram, load_pyplot
from sigmel.routing_study.statistics import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(name: str, report: dict[str, Any], tables: Mapping[str, Table]) -> dict[str, Figure]:
    """The plots of a report, by name.

    Args:
        name: name of the set.
        report: see `RoutingStatistics.report`.
        tables: see `sigmel.routing_study.tables.describe`, and "robustness".
    """
    layers = tables["layers"]
    figures = {
        "load": load_per_layer(report, name),
        "entropy": entropies(layers),
        "segments": segments(tables["segments"]),
        "coverage": coverage(tables["coverage"]),
        "experts": expert_use(report),
    }
    for kind in ("token", "phone"):
        if table := tables.get(f"{kind}s"):
            information = [row[f"{kind}_information"] or 0.0 for row in layers]
            figures[f"{kind}s"] = labels(table, kind, layer=information.index(max(information)) + 1)
    if len(layers) > 1:
        figures["overlap"] = overlaps(tables["overlap"], len(layers))
    if len(tables["robustness"]) > 1:
        figures["robustness"] = robustness(tables["robustness"])
    return figures


def load_per_layer(report: dict[str, Any], name: str) -> Figure:
    """Plot the share of the frames that went to each expert of each layer."""
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

    The "phones" of an utterance (see `sigmel.routing_study.phones`) stand in its spectrogram.
    """
    utterance = report["utterance"]
    experts = np.array(utterance["experts"])  # (layers, frames)
    pyplot = load_pyplot()
    figure, (top, bottom) = pyplot.subplots(
        2, 1, figsize=(10, 3.4 + 0.35 * len(experts)), sharex=True, height_ratios=[1.2, 1], layout="constrained"
    )
    image = draw_spectrogram(top, utterance["audio_filepath"], f"“{utterance['text']}”")
    limits = image.get_extent()[:2]
    for start, end, phone in utterance.get("phones") or ():
        top.axvline(start, color="white", linewidth=0.5, alpha=0.5)
        middle = (start + end) / 2
        top.text(middle, 59, phone, color="white", ha="center", fontsize=8, clip_on=True, parse_math=False)
    top.set(ylabel="mel channel")
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
    bottom.set(xlabel="time (s)", ylabel="layer", yticks=range(1, len(experts) + 1), xlim=limits)
    figure.colorbar(image, ax=bottom, label="expert", ticks=range(count))
    return figure


def entropies(layers: Table) -> Figure:
    """Plot the router's entropy in each layer, and the entropy of the uniform distribution."""
    figure, axes = load_pyplot().subplots(figsize=(6, 3), layout="constrained")
    numbers = [row["layer"] for row in layers]
    axes.plot(numbers, [row["entropy"] for row in layers], "o-", label="router")
    axes.plot(numbers, [np.log(row["experts"]) for row in layers], "--", color="grey", label="uniform")
    axes.set(xlabel="layer", ylabel="entropy (nats)", ylim=(0, None), xticks=numbers)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def coverage(table: Table) -> Figure:
    """Plot the share of frames on the most frequent paths, and the share by chance."""
    figure, axes = load_pyplot().subplots(figsize=(6, 3.4), layout="constrained")
    for column, style, label in (("share", "o-", "model"), ("independent", "--", "layers independent")):
        axes.plot([row["paths"] for row in table], [100 * row[column] for row in table], style, label=label)
    axes.set(xlabel="most frequent paths", ylabel="frames (%)", xscale="log", ylim=(0, 101))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def segments(table: Table) -> Figure:
    """Plot how long each layer stays with one expert, and how long it would by chance; a dot is an expert."""
    figure, axes = load_pyplot().subplots(figsize=(6, 3.4), layout="constrained")
    whole = [row for row in table if row["expert"] is None]
    single = [row for row in table if row["expert"] is not None]
    for rows, column, style, label in (
        (whole, "mean_seconds", "o-", "model"),
        (whole, "independent", "--", "frames independent"),
        (single, "mean_seconds", ".", "one expert"),
    ):
        axes.plot([row["layer"] for row in rows], [1000 * row[column] for row in rows], style, label=label)
    axes.set(xlabel="layer", ylabel="mean segment (ms)", ylim=(0, None), xticks=[row["layer"] for row in whole])
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def overlaps(pairs: Table, layers: int) -> Figure:
    """Plot each measure of agreement as a matrix over the layers; undefined values stay white."""
    titles = {"cramers_v": "Cramér's V", "mutual_information": "mutual information", "jaccard": "Jaccard overlap"}
    size = 1.8 + 0.28 * layers
    figure, all_axes = load_pyplot().subplots(1, 3, figsize=(3 * size, size), layout="constrained")
    for axes, (name, title) in zip(all_axes, titles.items(), strict=True):
        matrix = np.full((layers, layers), np.nan)
        for row in pairs:
            if row[name] is not None:
                layer, other = row["layer"] - 1, row["other"] - 1
                matrix[layer, other] = matrix[other, layer] = row[name]
        extent = (0.5, layers + 0.5, layers + 0.5, 0.5)
        image = axes.imshow(matrix, cmap="viridis", vmin=0, vmax=1, extent=extent)
        axes.set(xlabel="layer", ylabel="layer", title=title)
    figure.colorbar(image, ax=all_axes)
    return figure


def labels(table: Table, kind: str, layer: int, most: int = 40) -> Figure:
    """Plot which experts of one layer the frames of the most frequent tokens or phones (`kind`) go to.

    Tokens or phones stand in the order of their most frequent experts.
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
    """Plot the word error rate under each disturbance, or the change of the output for a set without texts."""
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
