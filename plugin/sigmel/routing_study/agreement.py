"""How far two choices agree: the experts of two layers, or the experts of a layer and what is spoken.

The indices of experts mean nothing beyond the layers that share a router, so choices are compared as partitions of
the frames: any renaming of the experts leaves the measures as they are. Cramer, "Mathematical Methods of Statistics"
(1946), 21.9; Strehl and Ghosh, "Cluster Ensembles" (JMLR 3, 2002) for normalised mutual information. Expert layers are
compared by the correlation of choices in arXiv 2507.05724, and by Jaccard overlap in arXiv 2603.18297.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.routing_study.statistics import Table, jaccard


class Association(NamedTuple):
    """How much one choice tells about another, from 0 (nothing) to 1 (all); None if a choice never varies.

    Attributes:
        cramers_v: the square root of `chi^2 / (N * (min(A, B) - 1))`, where A and B values occur.
        mutual_information: `2 I(a; b) / (H(a) + H(b))`.
    """

    cramers_v: float | None
    mutual_information: float | None


class Labels(NamedTuple):
    """What is spoken in each frame: tokens, or phones.

    Attributes:
        values: (N,) int64, the number of each frame's label, or -1 for a frame without a label.
        names: names of the labels.
    """

    values: Tensor
    names: list[str]


def contingency(a: Tensor, b: Tensor, shape: tuple[int, int]) -> Tensor:
    """How often each pair of values occurs in two (N,) integer tensors below A and B: (A, B) int64."""
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


def layer_pairs(experts: Tensor, routers: Sequence[int]) -> Table:
    """Compare every pair of layers.

    Args:
        experts: (N, L, K) integers, the experts of N frames in L layers, best first.
        routers: for each layer the number of its router.

    Returns:
        For each pair "layer" and "other", from 1; "cramers_v" and "mutual_information" of the first choices, see
        `Association`; and "jaccard", the mean overlap of a frame's K experts, None for layers that share no router.
    """
    pairs = []
    values = int(experts.max()) + 1
    for layer, other in combinations(range(len(routers)), 2):
        a, b = experts[:, layer], experts[:, other]
        row: dict[str, Any] = {"layer": layer + 1, "other": other + 1}
        row |= association(contingency(a[:, 0], b[:, 0], (values, values)))._asdict()
        row["jaccard"] = jaccard(a, b).mean().item() if routers[layer] == routers[other] else None
        pairs.append(row)
    return pairs


def label_counts(experts: Tensor, labels: Labels) -> list[Tensor]:
    """How often the frames with each label go to each expert: (labels, experts) int64 for each layer.

    Args:
        experts: (N, L) integers, first choices.
        labels: labels of these frames.
    """
    labelled = labels.values >= 0
    shape = len(labels.names), int(experts.max()) + 1
    return [contingency(labels.values[labelled], chosen, shape) for chosen in experts[labelled].unbind(1)]


def label_table(counts: Sequence[Tensor], labels: Labels, kind: str, most: int) -> Table:
    """Which experts the frames with each label go to, in each layer.

    Args:
        counts: see `label_counts`.
        labels: the same labels.
        kind: name of the column of labels: "token" or "phone".
        most: number of labels to list, the most frequent first.

    Returns:
        For each layer and label: "layer" (from 1), `kind`, "frames", "expert" (the most frequent one), its "share" of
        the label's frames, and "shares", the shares of all experts.
    """
    rows = []
    for layer, count in enumerate(counts, start=1):
        frames = count.sum(1)
        for label in frames.argsort(descending=True, stable=True)[:most].tolist():
            if frames[label]:
                shares = (count[label].double() / frames[label]).tolist()
                expert = int(count[label].argmax())
                row = {"layer": layer, kind: labels.names[label], "frames": int(frames[label]), "expert": expert}
                rows.append(row | {"share": shares[expert], "shares": shares})
    return rows
