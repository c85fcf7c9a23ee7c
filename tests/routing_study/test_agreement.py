"""Agreement between choices, against hand-made ones, scipy and counts."""

import math
from collections import Counter

import pytest
import torch

from sigmel.routing_study.agreement import (
    Labels,
    association,
    contingency,
    label_counts,
    label_table,
    layer_pairs,
)


def test_contingency_is_a_count_of_pairs():
    a, b = torch.randint(3, (50,)), torch.randint(5, (50,), dtype=torch.int16)
    counts = contingency(a, b, (3, 5))
    pairs = Counter(zip(a.tolist(), b.tolist(), strict=True))
    assert counts.tolist() == [[pairs[i, j] for j in range(5)] for i in range(3)]


def test_a_renaming_agrees_fully_and_a_constant_says_nothing():
    a = torch.randint(4, (100,))
    renamed = torch.tensor([2, 0, 3, 1])[a]
    assert association(contingency(a, renamed, (4, 4))) == pytest.approx((1, 1))
    assert association(contingency(a, torch.zeros(100), (4, 4))) == (None, None)


def test_independent_choices_agree_in_next_to_nothing():
    v, information = association(contingency(torch.randint(4, (20000,)), torch.randint(4, (20000,)), (4, 4)))
    assert 0 <= v < 0.03
    assert 0 <= information < 0.001


def test_mutual_information_of_a_merged_choice():
    """b tells the halves of a apart: I = H(b) = ln 2, H(a) = ln 4."""
    a = torch.arange(400) % 4
    found = association(contingency(a, a // 2, (4, 2)))
    assert found.mutual_information == pytest.approx(2 * math.log(2) / (math.log(2) + math.log(4)))
    assert found.cramers_v == pytest.approx(1)


def test_cramers_v_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    counts = torch.randint(1, 30, (4, 6))
    assert association(counts).cramers_v == pytest.approx(stats.contingency.association(counts.numpy(), "cramer"))


def test_pairs_of_layers():
    """Layers 1 and 2 are equal and share a router; layer 3 is a renaming of them by a router of its own."""
    first = torch.randint(4, (60,))
    second = (first + 1) % 4
    same = torch.stack([first, second], 1)
    experts = torch.stack([same, same.flip(1), (same + 1) % 4], 1).short()
    rows = layer_pairs(experts, routers=[0, 0, 1])
    assert [(row["layer"], row["other"]) for row in rows] == [(1, 2), (1, 3), (2, 3)]
    assert [row["jaccard"] for row in rows] == [1, None, None]  # the order of a frame's experts does not matter
    assert all(row["cramers_v"] == pytest.approx(1) for row in rows)
    assert all(row["mutual_information"] == pytest.approx(1) for row in rows)


def test_jaccard_of_every_pair():
    experts = torch.tensor([[[0, 1], [1, 2], [2, 3]], [[0, 1], [0, 1], [0, 3]]])
    assert [row["jaccard"] for row in layer_pairs(experts, [0, 0, 0])] == pytest.approx([2 / 3, 1 / 6, 1 / 3])


def test_the_experts_of_each_label():
    """The frame without a label does not count."""
    labels = Labels(torch.tensor([1, 1, 1, 0, -1, 0, 3]), ["a", "b", "c", "d"])
    experts = torch.tensor([[0, 2], [0, 2], [1, 2], [1, 0], [0, 0], [1, 0], [2, 1]])
    counts = label_counts(experts, labels)
    rows = label_table(counts, labels, "phone", most=2)
    assert [(row["layer"], row["phone"], row["frames"], row["expert"]) for row in rows] == [
        (1, "b", 3, 0),
        (1, "a", 2, 1),
        (2, "b", 3, 2),
        (2, "a", 2, 0),
    ]
    assert rows[0]["share"] == pytest.approx(2 / 3)
    assert rows[0]["shares"] == pytest.approx([2 / 3, 1 / 3, 0])
    mixed, clear = map(association, counts)
    assert mixed.mutual_information < clear.mutual_information == pytest.approx(1)


def test_without_a_label_nothing_is_said_of_them():
    counts = label_counts(torch.zeros(3, 2), Labels(torch.full((3,), -1), ["a"]))
    assert [association(count) for count in counts] == [(None, None)] * 2
