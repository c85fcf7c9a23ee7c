"""Rotations depend on distance only; sinusoids are bounded and distinct."""

import torch

from sigmel.layers.positions import rotate, sinusoids


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
