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

from sigmel.routing_study.statistics import jaccard


class Association(NamedTuple):
    """How much one choice says about another, each from 0 (nothing) to 1 (all); None where a choice never varies.

    Attributes:
        cramers_v: the square root of `chi^2 / (N * (min(A, B) - 1))`, A and B being the values that occur.
        mutual_information: `2 I(a; b) / (H(a) + H(b))`.
    """

    cramers_v: float | None
    mutual_information: float | None


class Labels(NamedTuple):
    """What is spoken in each frame, by some account.

    Attributes:
        values: (N,) int64, the number of each frame's label, -1 where it has none.
        names: of the labels.
    """

    values: Tensor
    names: list[str]


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


def label_table(experts: Tensor, labels: Labels, kind: str, most: int) -> list[dict[str, Any]]:
    """Which experts the frames with each label go to, in each layer.

    Args:
        experts: (N, L) integers, first choices.
        labels: of these frames.
        kind: what the labels are, which is the name of their column.
        most: how many labels to list, the most frequent first.

    Returns:
        For each layer and label: "layer" (from 1), `kind`, "frames", "expert" (the most frequent one), its "share" of
        the label's frames, and "shares", those of all experts.
    """
    rows = []
    values, chosen = _labelled(labels, experts)
    shape = len(labels.names), int(experts.max()) + 1
    for layer, choices in enumerate(chosen.unbind(1), start=1):
        counts = contingency(values, choices, shape)
        frames = counts.sum(1)
        for label in frames.argsort(descending=True, stable=True)[:most].tolist():
            if frames[label]:
                shares = (counts[label].double() / frames[label]).tolist()
                expert = int(counts[label].argmax())
                row = {"layer": layer, kind: labels.names[label], "frames": int(frames[label]), "expert": expert}
                rows.append(row | {"share": shares[expert], "shares": shares})
    return rows


def label_association(experts: Tensor, labels: Labels) -> list[Association]:
    """What each layer's first choices (N, L) say about the labels of the frames; None where no frame has one."""
    values, chosen = _labelled(labels, experts)
    if not len(values):
        return [Association(None, None)] * experts.shape[1]
    shape = len(labels.names), int(experts.max()) + 1
    return [association(contingency(values, choices, shape)) for choices in chosen.unbind(1)]


def _labelled(labels: Labels, experts: Tensor) -> tuple[Tensor, Tensor]:
    """The frames that have a label: (M,) labels and (M, L) experts."""
    has = labels.values >= 0
    return labels.values[has], experts[has]
