"""Paths and runs, against counts in plain Python."""

from collections import Counter
from itertools import groupby

import pytest
import torch

from sigmel.routing_study.paths import count_paths, independent, longest_runs


def test_paths_are_counted_most_frequent_first():
    experts = torch.randint(3, (500, 4), dtype=torch.int16)
    counts = count_paths(experts)
    expected = Counter(map(tuple, experts.tolist()))
    assert dict(zip(map(tuple, counts.paths.tolist()), counts.frames.tolist(), strict=True)) == expected
    assert counts.frames.tolist() == [count for _, count in expected.most_common()]
    assert counts.coverage()[:5].tolist() == pytest.approx(
        [sum(count for _, count in expected.most_common(k)) / 500 for k in range(1, 6)]
    )
    assert counts.coverage()[-1] == 1


def test_the_longest_run_of_each_frame():
    experts = torch.randint(2, (200, 7))
    expected = [max(len(list(run)) for _, run in groupby(path)) for path in experts.tolist()]
    assert longest_runs(experts).tolist() == expected
    assert longest_runs(experts[:, :1]).tolist() == [1] * 200


def test_independent_layers_keep_their_loads_and_lose_their_ties():
    one = torch.randint(4, (1000,))
    experts = torch.stack([one, one, one, one], dim=1)
    dealt = independent(experts, seed=1)
    assert all(torch.equal(dealt[:, layer].bincount(), one.bincount()) for layer in range(4))
    assert torch.equal(dealt, independent(experts, seed=1))
    assert len(count_paths(experts).paths) == 4
    assert len(count_paths(dealt).paths) > 100
