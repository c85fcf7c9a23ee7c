"""The tables of `sigmel routing`: what the routers decided over a set, counted; see docs/routing.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sigmel.errors import SigmelError
from sigmel.layers.masks import valid_frames
from sigmel.routing_study.agreement import Labels, association, label_counts, label_table, layer_pairs
from sigmel.routing_study.paths import path_tables, segment_table, share_of
from sigmel.routing_study.phones import label_frames
from sigmel.routing_study.recogniser import BLANK, RoutedRecogniser, Row, batches
from sigmel.routing_study.statistics import RoutingStatistics, Table

LISTED_LABELS = 200  # tokens of the table of tokens, and phones of the table of phones, in each layer


class Routed(NamedTuple):
    """What a recogniser did with the N frames of a set.

    Attributes:
        report: see `RoutingStatistics.report`.
        experts: (N, L, K) int16, the experts of each frame in each layer with experts.
        routers: for each of the L layers the number of its router, from 0.
        utterances: (U,) int64, the frames of each utterance with usable audio; the N frames are in this order.
        frame_seconds: seconds between two frames.
        tokens: the token that each frame is recognised as; None for a model that gives no token to a frame.
        phones: the phone that is spoken in each frame; None without alignments.
        skipped: rows without usable audio, with a `reason`.
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
    """Encode the rows of a manifest and keep what the routers decide; shows a progress bar.

    Raises:
        SigmelError: no row has usable audio, with the reason of the first; or a row has phones that are no alignment.
    """
    done: list[Row] = []
    skipped: list[Row] = []
    seconds: list[float] = []
    experts, tokens, utterances = [], [], []
    routers: tuple[int, ...] = ()
    statistics = RoutingStatistics()
    with tqdm(total=len(rows), desc="routing", unit="utt", mininterval=1.0) as progress:
        for encoded, waveforms, lengths in batches(model, rows, batch_size, skipped):
            output = model(waveforms, lengths)
            statistics.update(output.routing, output.lengths)
            valid = valid_frames(output.lengths, output.hidden.shape[1])
            chosen = torch.stack([decision.experts[valid] for decision in output.routing], dim=1)
            experts.append(chosen.to("cpu", torch.int16))
            if model.names:
                tokens.append(model.tokens(output.hidden)[valid].cpu())
            utterances.append(output.lengths.cpu())
            routers = output.routers
            done += encoded
            seconds += (lengths / model.sample_rate).tolist()
            progress.update(len(encoded))
    if not done:
        raise SigmelError(f"no utterance has usable audio; the first: {skipped[0]['reason']}")
    frames = torch.cat(utterances)
    return Routed(
        statistics.report(done, seconds),
        torch.cat(experts),
        routers,
        frames,
        model.frame_seconds,
        Labels(torch.cat(tokens), model.names) if tokens else None,
        label_frames(done, frames.tolist(), model.frame_seconds),
        skipped,
    )


def describe(routed: Routed, seed: int) -> tuple[dict[str, Any], dict[str, Table]]:
    """Everything that the decisions of a set say.

    Args:
        routed: the decisions.
        seed: of the choices dealt out anew, which paths, runs and segments are compared with.

    Returns:
        A summary, ready for JSON, and the tables "layers", "load", "overlap", "segments", "paths", "coverage", "runs"
        and, if they are known, "tokens" and "phones"; see docs/routing.md for their columns.
    """
    first = routed.experts[..., 0]
    layers, load = _layers(routed)
    about_paths, tables_of_paths = path_tables(first, seed)
    summary = {"frames": len(first), **about_paths}
    tables = {"layers": layers, "load": load, "overlap": layer_pairs(routed.experts, routed.routers)}
    tables["segments"] = segment_table(first, routed.utterances, routed.frame_seconds, seed)
    tables |= tables_of_paths

    if routed.tokens is not None:
        summary["blank_frames"] = share_of(routed.tokens.values == BLANK)
    if routed.phones is not None:
        summary["frames_with_phone"] = share_of(routed.phones.values >= 0)
    for kind, labels in (("token", routed.tokens), ("phone", routed.phones)):
        if labels is None:
            continue
        counts = label_counts(first, labels)
        tables[f"{kind}s"] = label_table(counts, labels, kind, LISTED_LABELS)
        for row, count in zip(layers, counts, strict=True):
            row[f"{kind}_information"] = association(count).mutual_information
            if kind == "token":
                row["spoken_token_information"] = association(count[BLANK + 1 :]).mutual_information
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
