"""Rotations depend on distance only; sinusoids are bounded and distinct."""

import itertools

import pytest
import torch

from sigmel.layers.positions import Alibi, Relative, rotate, sinusoids


def test_scores_after_rotation_depend_on_distance():
    q, k = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)

    def score(i, j):
        return (rotate(q, sinusoids(torch.tensor([i]), 8)) * rotate(k, sinusoids(torch.tensor([j]), 8))).sum()

    torch.testing.assert_close(score(3, 1), score(12, 10), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(score(0, 0), (q * k).sum(), atol=1e-5, rtol=1e-5)
    assert (score(3, 1) - score(3, 2)).abs() > 1e-3


def test_rotation_keeps_the_norm():
    x = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(rotate(x, sinusoids(torch.arange(5), 8)).norm(dim=-1), x.norm(dim=-1))


def test_sinusoids_tell_frames_apart():
    table = sinusoids(torch.arange(500), 16)
    assert table.abs().max() <= 1
    assert torch.pdist(table).min() > 1e-2


@pytest.mark.parametrize("past", [0, 1, 4])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_relative_scores_are_the_papers(past, count):
    """`(q + u) k + (q + v) W r` (arXiv 1901.02860, section 3.3), pair by pair."""
    relative = Relative(d_model=12, num_heads=2).double()
    torch.nn.init.normal_(relative.u)
    torch.nn.init.normal_(relative.v)
    q = torch.randn(3, 2, count, 6, dtype=torch.float64)
    content, scores = relative.scores(q, relative.table(torch.arange(count), past, 12, 2))
    torch.testing.assert_close(content, q + relative.u[:, None])
    assert scores.shape == (3, 2, count, past + count)
    for i, j in itertools.product(range(count), range(past + count)):
        r = relative.proj(sinusoids(torch.tensor([past + i - j]), 12).double()).view(2, 6)
        expected = ((q[:, :, i] + relative.v) * r).sum(-1) / 6**0.5
        torch.testing.assert_close(scores[:, :, i, j], expected)


def test_alibi_takes_a_slope_a_frame():
    alibi = Alibi(d_model=16, num_heads=8)
    torch.testing.assert_close(alibi.slopes, 2.0 ** -torch.arange(1.0, 9.0))  # the paper's example
    q = torch.randn(1, 8, 2, 2)
    same, scores = alibi.scores(q, alibi.table(torch.arange(2), 3, 16, 8))
    assert same is q
    torch.testing.assert_close(scores[1], -0.25 * torch.tensor([[3.0, 2, 1, 0, 1], [4, 3, 2, 1, 0]]))
