"""Paths, runs and segments, against counts and groups in plain Python."""

from collections import Counter
from itertools import groupby

import pytest
import torch

from sigmel.routing_study.paths import count_paths, independent, longest_runs, segment_table, segments


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


def by_hand(experts, utterances):
    """(expert, frames) of each segment."""
    found = []
    for utterance in experts.split(utterances):
        found += [(expert, len(list(run))) for expert, run in groupby(utterance.tolist())]
    return found


@pytest.mark.parametrize("utterances", [[60], [1, 20, 39], [30, 1, 29], [1] * 60])
def test_a_segment_ends_with_its_expert_or_its_utterance(utterances):
    experts = torch.randint(2, (60,), dtype=torch.int16)
    found = [part.tolist() for part in segments(experts, torch.tensor(utterances))]
    assert list(zip(*found, strict=True)) == by_hand(experts, utterances)


def test_the_table_has_each_layer_and_its_experts():
    experts = torch.tensor([[0, 2], [0, 1], [0, 2], [3, 1], [3, 2], [0, 2]])
    rows = segment_table(experts, torch.tensor([4, 2]), frame_seconds=0.04, seed=0)
    assert [(row["layer"], row["expert"], row["segments"], row["mean_frames"]) for row in rows] == [
        (1, None, 4, 1.5),
        (1, 0, 2, 2.0),
        (1, 3, 2, 1.0),
        (2, None, 5, 1.2),
        (2, 1, 2, 1.0),
        (2, 2, 3, pytest.approx(4 / 3)),
    ]
    assert all(row["mean_seconds"] == pytest.approx(0.04 * row["mean_frames"]) for row in rows)


def test_choices_dealt_out_anew_are_shorter_by_what_chance_gives():
    """Expert 0 for half of the frames: a run of independent choices lasts 1 / (1 - p) frames in the mean."""
    steady = torch.arange(20000)[:, None] // 10 % 2
    for row in segment_table(steady, torch.tensor([20000]), frame_seconds=1.0, seed=1):
        assert row["mean_seconds"] == 10
        assert row["independent"] == pytest.approx(2, rel=0.05)
