"""The tables of `sigmel routing`: what the routers decided over a set, counted; see docs/routing.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.layers.masks import valid_frames
from sigmel.routing_study.agreement import Labels, label_association, label_table, layer_pairs
from sigmel.routing_study.paths import LONG_RUN, count_paths, independent, longest_runs
from sigmel.routing_study.phones import label_frames
from sigmel.routing_study.recogniser import BLANK, RoutedRecogniser, Row, batches
from sigmel.routing_study.segments import segment_table
from sigmel.routing_study.statistics import RoutingWatch

LISTED_PATHS = 1000  # rows of the table of paths
LISTED_LABELS = 200  # tokens of the table of tokens, in each layer, and phones of that of phones
Table = list[dict[str, Any]]


class Routed(NamedTuple):
    """What a set did.

    Attributes:
        report: of `RoutingWatch.report`.
        experts: (N, L, K) int16, the experts of all its frames.
        routers: for each of the L layers the number of its router, from 0.
        utterances: (U,) int64, how many of the N frames are of each utterance with usable audio, in their order.
        frame_seconds: between two frames.
        tokens: what the recogniser hears in each frame; None for one that hears no token in a frame.
        phones: what is spoken in each frame; None without alignments.
        skipped: rows without usable audio, with a ``reason``.
    """

    report: dict[str, Any]
    experts: Tensor
    routers: tuple[int, ...]
    utterances: Tensor
    frame_seconds: float
    tokens: Labels | None
    phones: Labels | None
    skipped: list[Row]


@torch.inference_mode()
def collect(model: RoutedRecogniser, rows: Sequence[Row], batch_size: int) -> Routed:
    """Encode manifest rows and keep what the routers decided; shows its progress.

    Raises:
        SigmelError: no row has usable audio, the message having the first one's reason; or a row has phones that are
            none.
    """
    from tqdm import tqdm

    done: list[Row] = []
    skipped: list[Row] = []
    experts, tokens, utterances = [], [], []
    routers: tuple[int, ...] = ()
    watch = RoutingWatch(model.subsampling_factor)
    with tqdm(total=len(rows), desc="routing", unit="utt", mininterval=1.0) as progress:
        for batch in batches(model, rows, batch_size, skipped):
            output = model(batch.waveforms, batch.lengths)
            watch.update(output.routing, output.lengths)
            valid = valid_frames(output.lengths, output.hidden.shape[1])
            chosen = torch.stack([decision.experts[valid] for decision in output.routing], dim=1)
            experts.append(chosen.to("cpu", torch.int16))
            if model.names:
                tokens.append(model.tokens(output.hidden)[valid].cpu())
            utterances.append(output.lengths.cpu())
            routers = output.routers
            done += batch.rows
            progress.update(len(batch.rows))
    if not done:
        raise SigmelError(f"no utterance has usable audio; the first: {skipped[0]['reason']}")
    frames = torch.cat(utterances)
    frame_seconds = model.window_stride * model.subsampling_factor
    return Routed(
        watch.report(done, model.window_stride),
        torch.cat(experts),
        routers,
        frames,
        frame_seconds,
        Labels(torch.cat(tokens), model.names) if tokens else None,
        label_frames(done, frames.tolist(), frame_seconds),
        skipped,
    )


def describe(routed: Routed, seed: int) -> tuple[dict[str, Any], dict[str, Table]]:
    """Everything that the decisions of a set say.

    Args:
        routed: what it did.
        seed: of the choices dealt out anew, which paths, runs and segments are compared with.

    Returns:
        A summary, ready for JSON, and the tables "layers", "load", "overlap", "segments", "paths", "coverage", "runs"
        and, where they are known, "tokens" and "phones"; see docs/routing.md for their columns.
    """
    first = routed.experts[..., 0]
    summary: dict[str, Any] = {"frames": len(first)}
    layers, load = _layers(routed)
    tables = {"layers": layers, "load": load, "overlap": layer_pairs(routed.experts, routed.routers)}
    tables["segments"] = segment_table(first, routed.utterances, routed.frame_seconds, seed)
    about_paths, path_tables = _paths(first, seed)
    summary |= about_paths
    tables |= path_tables
    if routed.tokens is not None:
        speaks = routed.tokens.values != BLANK
        summary["blank_frames"] = _share(~speaks)
        spoken = Labels(routed.tokens.values.where(speaks, -1), routed.tokens.names)
        _add_information(layers, "token_information", first, routed.tokens)
        _add_information(layers, "spoken_token_information", first, spoken)
        tables["tokens"] = label_table(first, routed.tokens, "token", LISTED_LABELS)
    if routed.phones is not None:
        summary["frames_with_phone"] = _share(routed.phones.values >= 0)
        _add_information(layers, "phone_information", first, routed.phones)
        tables["phones"] = label_table(first, routed.phones, "phone", LISTED_LABELS)
    return summary, tables


def _layers(routed: Routed) -> tuple[Table, Table]:
    """The tables "layers" and "load"."""
    layers: Table = []
    load: Table = []
    for number, (router, layer) in enumerate(zip(routed.routers, routed.report["layers"], strict=True), start=1):
        row: dict[str, Any] = {"layer": number, "router": router + 1, "experts": len(layer["load"])}
        row |= {"entropy": layer["entropy"], "relative_entropy": layer["entropy"] / math.log(row["experts"])}
        layers.append(row | {"dead_experts": layer["dead_experts"]})
        load += [{"layer": number, "expert": expert, "share": share} for expert, share in enumerate(layer["load"])]
    return layers, load


def _add_information(layers: Table, column: str, first: Tensor, labels: Labels) -> None:
    for row, found in zip(layers, label_association(first, labels), strict=True):
        row[column] = found.mutual_information


def _paths(first: Tensor, seed: int) -> tuple[dict[str, Any], dict[str, Table]]:
    """What is to be said of paths, and the tables "paths", "coverage" and "runs"."""
    counts, chance = count_paths(first), count_paths(dealt := independent(first, seed))
    covered, covered_by_chance = counts.coverage(), chance.coverage()
    paths = [
        {
            "rank": rank,
            "path": "-".join(map(str, path)),
            "frames": frames,
            "share": frames / len(first),
            "cumulative": c,
        }
        for rank, (path, frames, c) in enumerate(
            zip(*(column[:LISTED_PATHS].tolist() for column in (*counts, covered)), strict=True), start=1
        )
    ]
    coverage = [
        {
            "paths": k,
            "share": covered[k - 1].item(),
            "independent": covered_by_chance[min(k, len(chance[0])) - 1].item(),
        }
        for k in _round_numbers(len(covered))
    ]
    length, length_by_chance = longest_runs(first), longest_runs(dealt)
    runs = [
        {"layers": n, "share": _share(length == n), "independent": _share(length_by_chance == n)}
        for n in range(1, first.shape[1] + 1)
    ]
    summary = {
        "distinct_paths": len(covered),
        "distinct_paths_independent": len(covered_by_chance),
        "long_runs": _share(length >= LONG_RUN),
        "long_runs_independent": _share(length_by_chance >= LONG_RUN),
    }
    return summary, {"paths": paths, "coverage": coverage, "runs": runs}


def _round_numbers(most: int) -> list[int]:
    """1, 2, 5, 10, 20, ... below `most`, and `most`."""
    steps = (factor * 10**power for power in range(len(str(most))) for factor in (1, 2, 5))
    return [*(step for step in steps if step < most), most]


def _share(frames: Tensor) -> float:
    return frames.double().mean().item()
