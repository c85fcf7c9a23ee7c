"""The paths of frames through the experts: a frame's path is its first choice in each layer (arXiv 2603.18297)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

LONG_RUN = 4  # layers on one expert that make a long run in the paper


class PathCounts(NamedTuple):
    """Paths and how often each was taken.

    Attributes:
        paths: (P, L) int64, the most frequent first; those as frequent in the order of their experts.
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
    """The same (N, L) choices, those of each layer dealt out to the frames anew: what chance alone would give."""
    generator = torch.Generator().manual_seed(seed)
    dealt = [layer[torch.randperm(len(layer), generator=generator)] for layer in experts.unbind(1)]
    return torch.stack(dealt, dim=1)
