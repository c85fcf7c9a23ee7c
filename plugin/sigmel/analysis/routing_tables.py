"""The tables of `sigmel routing`: what the routers decided over a set, counted; see docs/routing.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.analysis.agreement import layer_pairs, token_association, token_table
from sigmel.analysis.paths import LONG_RUN, count_paths, independent, longest_runs
from sigmel.analysis.recogniser import BLANK, RoutedRecogniser, Row, batches
from sigmel.analysis.routing import watch_routing
from sigmel.errors import SigmelError
from sigmel.layers.masks import valid_frames

LISTED_PATHS = 1000  # rows of the table of paths
LISTED_TOKENS = 200  # tokens of the table of tokens, in each layer
Table = list[dict[str, Any]]


class Routed(NamedTuple):
    """What a set did.

    Attributes:
        report: of `RoutingWatch.report`.
        experts: (N, L, K) int16, the experts of all its frames.
        tokens: (N,) int64, the best token of each.
        utterances: how many had usable audio.
        skipped: rows that had not, with a ``reason``.
    """

    report: dict[str, Any]
    experts: Tensor
    tokens: Tensor
    utterances: int
    skipped: list[Row]


@torch.inference_mode()
def collect(model: RoutedRecogniser, rows: Sequence[Row], batch_size: int) -> Routed:
    """Encode manifest rows and keep what the routers decided; shows its progress.

    Raises:
        SigmelError: no row has usable audio; the message has the first one's reason.
    """
    from tqdm import tqdm

    done: list[Row] = []
    skipped: list[Row] = []
    experts, tokens = [], []
    with watch_routing(model) as watch, tqdm(total=len(rows), desc="routing", unit="utt", mininterval=1.0) as progress:
        assert watch is not None  # it has routers
        for batch in batches(model, rows, batch_size, skipped):
            output = model(batch.waveforms, batch.lengths)
            valid = valid_frames(output.lengths, output.hidden.shape[1])
            chosen = torch.stack([decision.experts[valid] for decision in output.routing], dim=1)
            experts.append(chosen.to("cpu", torch.int16))
            tokens.append(model.tokens(output.hidden)[valid].cpu())
            done += batch.rows
            progress.update(len(batch.rows))
    if not done:
        raise SigmelError(f"no utterance has usable audio; the first: {skipped[0]['reason']}")
    report = watch.report(done, model.window_stride)
    return Routed(report, torch.cat(experts), torch.cat(tokens), len(done), skipped)


def describe(model: RoutedRecogniser, routed: Routed, seed: int) -> tuple[dict[str, Any], dict[str, Table]]:
    """Everything that the decisions of a set say.

    Args:
        model: the recogniser.
        routed: what it did.
        seed: of the independent layers that paths and runs are compared with.

    Returns:
        A summary, ready for JSON, and the tables "layers", "load", "overlap", "paths", "coverage", "runs" and
        "tokens"; see docs/routing.md for their columns.
    """
    first = routed.experts[..., 0]
    speaks = routed.tokens != BLANK
    spoken = token_association(first[speaks], routed.tokens[speaks], len(model.names))
    every = token_association(first, routed.tokens, len(model.names))
    layers: Table = []
    load: Table = []
    for number, layer in enumerate(routed.report["layers"], start=1):
        row: dict[str, Any] = {
            "layer": number,
            "router": model.layer_routers[number - 1] + 1,
            "experts": len(layer["load"]),
        }
        row |= {"entropy": layer["entropy"], "relative_entropy": layer["entropy"] / math.log(row["experts"])}
        row |= {"dead_experts": layer["dead_experts"], "token_information": every[number - 1].mutual_information}
        layers.append(row | {"spoken_token_information": spoken[number - 1].mutual_information})
        load += [{"layer": number, "expert": expert, "share": share} for expert, share in enumerate(layer["load"])]

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
    depth = first.shape[1]
    length, length_by_chance = longest_runs(first), longest_runs(dealt)
    runs = [
        {"layers": n, "share": _share(length == n), "independent": _share(length_by_chance == n)}
        for n in range(1, depth + 1)
    ]
    summary = {
        "frames": len(first),
        "blank_frames": _share(~speaks),
        "distinct_paths": len(covered),
        "distinct_paths_independent": len(covered_by_chance),
        "long_runs": _share(length >= LONG_RUN),
        "long_runs_independent": _share(length_by_chance >= LONG_RUN),
    }
    tables = {"layers": layers, "load": load, "overlap": layer_pairs(routed.experts, model.layer_routers)}
    tables |= {"paths": paths, "coverage": coverage, "runs": runs}
    tables["tokens"] = token_table(first, routed.tokens, model.names, LISTED_TOKENS)
    return summary, tables


def _round_numbers(most: int) -> list[int]:
    """1, 2, 5, 10, 20, ... below `most`, and `most`."""
    steps = (factor * 10**power for power in range(len(str(most))) for factor in (1, 2, 5))
    return [*(step for step in steps if step < most), most]


def _share(frames: Tensor) -> float:
    return frames.double().mean().item()
