"""How far two choices say the same: those of two layers, or a layer's experts and what is spoken.

The indices of experts mean nothing beyond the layers that share a router, so choices are compared as partitions of
the frames: any renaming of the experts leaves the measures as they are. Cramer, "Mathematical Methods of Statistics"
(1946), 21.9; Strehl and Ghosh, "Cluster Ensembles" (JMLR 3, 2002) for normalised mutual information. Their use for
expert layers: arXiv 2507.05724 (correlation of choices) and 2603.18297 (Jaccard overlap).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.analysis.routing import jaccard


class Association(NamedTuple):
    """How much one choice says about another, each from 0 (nothing) to 1 (all); None where a choice never varies.

    Attributes:
        cramers_v: the square root of `chi^2 / (N * (min(A, B) - 1))`, A and B being the values that occur.
        mutual_information: `2 I(a; b) / (H(a) + H(b))`.
    """

    cramers_v: float | None
    mutual_information: float | None


def contingency(a: Tensor, b: Tensor, shape: tuple[int, int]) -> Tensor:
    """How often each pair of values occurs: (A, B) int64 of two (N,) integer tensors below A and B."""
    return torch.bincount(a.long() * shape[1] + b.long(), minlength=shape[0] * shape[1]).view(shape)


def association(counts: Tensor) -> Association:
    """Compare two choices by their (A, B) `contingency`."""
    joint = counts.double()
    joint = joint[joint.sum(1) > 0][:, joint.sum(0) > 0] / joint.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    smaller = min(joint.shape) - 1
    if smaller < 1:
        return Association(None, None)
    expected = rows[:, None] * columns
    v = ((joint - expected).square() / expected).sum().div(smaller).sqrt().item()
    information = torch.xlogy(joint, joint / expected).sum().item()
    entropies = -(torch.xlogy(rows, rows).sum() + torch.xlogy(columns, columns).sum()).item()
    return Association(min(v, 1.0), min(max(2 * information / entropies, 0.0), 1.0))


def layer_pairs(experts: Tensor, routers: Sequence[int]) -> list[dict[str, Any]]:
    """Compare every pair of layers.

    Args:
        experts: (N, L, K) integers, the experts of N frames in L layers, best first.
        routers: for each layer the number of its router.

    Returns:
        For each pair "layer" and "other", from 1; "cramers_v" and "mutual_information" of the first choices, see
        `Association`; and "jaccard", the mean overlap of a frame's K experts: None where the layers share no router.
    """
    pairs = []
    values = int(experts.max()) + 1
    for one, other in combinations(range(len(routers)), 2):
        a, b = experts[:, one], experts[:, other]
        row: dict[str, Any] = {"layer": one + 1, "other": other + 1}
        row |= association(contingency(a[:, 0], b[:, 0], (values, values)))._asdict()
        row["jaccard"] = jaccard(a, b).mean().item() if routers[one] == routers[other] else None
        pairs.append(row)
    return pairs


def token_table(experts: Tensor, tokens: Tensor, names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Which experts the frames of each token go to, in each layer.

    Args:
        experts: (N, L) integers, first choices.
        tokens: (N,) int64, what the recogniser hears in each frame.
        names: of the tokens.
        most: how many tokens to list, the most frequent first.

    Returns:
        For each layer and token: "layer" (from 1), "token", "frames", "expert" (the most frequent one), its "share" of
        the token's frames, and "shares", those of all experts.
    """
    rows = []
    values = int(experts.max()) + 1
    for layer, chosen in enumerate(experts.unbind(1), start=1):
        counts = contingency(tokens, chosen, (len(names), values))
        frames = counts.sum(1)
        for token in frames.argsort(descending=True, stable=True)[:most].tolist():
            if frames[token]:
                shares = (counts[token].double() / frames[token]).tolist()
                expert = int(counts[token].argmax())
                row = {"layer": layer, "token": names[token], "frames": int(frames[token]), "expert": expert}
                rows.append(row | {"share": shares[expert], "shares": shares})
    return rows


def token_association(experts: Tensor, tokens: Tensor, names: int) -> list[Association]:
    """What each layer's first choices (N, L) say about the `names` tokens (N,) heard; None without frames."""
    if not len(tokens):
        return [Association(None, None)] * experts.shape[1]
    values = int(experts.max()) + 1
    return [association(contingency(tokens, chosen, (names, values))) for chosen in experts.unbind(1)]
