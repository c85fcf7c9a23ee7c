"""How frames go through the experts, by first choices: over the layers, and from frame to frame.

A frame's path is its first choice in each layer, and a run is a part of a path on one expert (arXiv 2603.18297). A
segment is a part of an utterance that one layer sends to one expert (arXiv 2507.05724).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.routing_study.statistics import Table

LONG_RUN = 4  # layers on one expert that make a long run in the paper
LISTED_PATHS = 1000  # rows of the table of paths


class PathCounts(NamedTuple):
    """Paths and how often each was taken.

    Attributes:
        paths: (P, L) int64, the most frequent first, equally frequent ones in the order of their experts.
        frames: (P,) int64.
    """

    paths: Tensor
    frames: Tensor

    def coverage(self) -> Tensor:
        """(P,) float64, the share of the frames on the first 1, 2, ... P paths."""
        return self.frames.cumsum(0).double() / self.frames.sum()


def count_paths(experts: Tensor) -> PathCounts:
    """Count the paths of (N, L) first choices, N > 0."""
    paths, frames = experts.long().unique(dim=0, return_counts=True)
    order = frames.argsort(descending=True, stable=True)
    return PathCounts(paths[order], frames[order])


def longest_runs(experts: Tensor) -> Tensor:
    """(N,) int64, the most consecutive layers in which a frame's first choice, of (N, L), is one expert."""
    run = longest = torch.ones(len(experts), dtype=torch.int64)
    for before, after in pairwise(experts.unbind(1)):
        run = torch.where(before == after, run + 1, 1)
        longest = torch.maximum(longest, run)
    return longest


def independent(experts: Tensor, seed: int) -> Tensor:
    """(N, L) choices with those of each layer dealt out to the frames anew: what chance alone would give."""
    generator = torch.Generator().manual_seed(seed)
    dealt = [layer[torch.randperm(len(layer), generator=generator)] for layer in experts.unbind(1)]
    return torch.stack(dealt, dim=1)


def segments(experts: Tensor, utterances: Tensor) -> tuple[Tensor, Tensor]:
    """The segments of one layer: their (S,) experts and their (S,) int64 lengths in frames.

    Args:
        experts: (N,) first choices in the layer, of the frames of utterances one after the other.
        utterances: (U,) int64, the frames of each utterance; their sum is N.
    """
    utterance = torch.arange(len(utterances)).repeat_interleave(utterances)
    found, frames = torch.stack([utterance, experts], dim=1).unique_consecutive(dim=0, return_counts=True)
    return found[:, 1], frames


def segment_table(experts: Tensor, utterances: Tensor, frame_seconds: float, seed: int) -> Table:
    """How long the segments are, in each layer and for each expert.

    Args:
        experts: (N, L) first choices.
        utterances: see `segments`.
        frame_seconds: between two frames.
        seed: of the choices dealt out anew, see `independent`.

    Returns:
        For each layer, first for all its experts ("expert" is None) and then for each that was chosen: "layer" (from
        1), "expert", the number of "segments", their "mean_frames" and "mean_seconds", and "independent", the mean
        seconds after the choices were dealt out to the frames anew.
    """
    rows = []
    layers = zip(experts.unbind(1), independent(experts, seed).unbind(1), strict=True)
    for layer, choices in enumerate(layers, start=1):
        found = [segments(chosen, utterances) for chosen in choices]
        for expert in (None, *choices[0].unique().tolist()):
            frames, by_chance = (f if expert is None else f[e == expert] for e, f in found)
            mean, expected = frames.double().mean().item(), by_chance.double().mean().item()
            row = {"layer": layer, "expert": expert, "segments": len(frames), "mean_frames": mean}
            rows.append(row | {"mean_seconds": mean * frame_seconds, "independent": expected * frame_seconds})
    return rows


def path_tables(experts: Tensor, seed: int) -> tuple[dict[str, Any], dict[str, Table]]:
    """How many paths there are, which, and how long they stay with one expert.

    Args:
        experts: (N, L) first choices, N > 0.
        seed: see `independent`.

    Returns:
        A summary, ready for JSON, and the tables "paths", "coverage" and "runs"; see docs/routing.md.
    """
    dealt = independent(experts, seed)
    counts, by_chance = count_paths(experts), count_paths(dealt)
    covered, expected = counts.coverage().tolist(), by_chance.coverage().tolist()
    columns = counts.paths[:LISTED_PATHS].tolist(), counts.frames.tolist(), covered
    paths = [
        {
            "rank": rank,
            "path": "-".join(map(str, path)),
            "frames": frames,
            "share": frames / len(experts),
            "cumulative": cumulative,
        }
        for rank, (path, frames, cumulative) in enumerate(zip(*columns, strict=False), start=1)
    ]
    coverage = [
        {"paths": k, "share": covered[k - 1], "independent": expected[min(k, len(expected)) - 1]}
        for k in _round_numbers(len(covered))
    ]
    longest, longest_by_chance = longest_runs(experts), longest_runs(dealt)
    runs = [
        {"layers": layers, "share": share_of(longest == layers), "independent": share_of(longest_by_chance == layers)}
        for layers in range(1, experts.shape[1] + 1)
    ]
    summary = {
        "distinct_paths": len(covered),
        "distinct_paths_independent": len(expected),
        "long_runs": share_of(longest >= LONG_RUN),
        "long_runs_independent": share_of(longest_by_chance >= LONG_RUN),
    }
    return summary, {"paths": paths, "coverage": coverage, "runs": runs}


def share_of(frames: Tensor) -> float:
    """The share of true values in (N,) bool."""
    return frames.double().mean().item()


def _round_numbers(most: int) -> list[int]:
    """1, 2, 5, 10, 20, ... below `most`, and `most`."""
    steps = (factor * 10**power for power in range(len(str(most))) for factor in (1, 2, 5))
    return [*(step for step in steps if step < most), most]
