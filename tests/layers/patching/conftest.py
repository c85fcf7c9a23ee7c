"""What the tests of patched attention share: the formula of the paper, written plainly."""

import math

import pytest
import torch

from sigmel.layers.patching import torch_attention


@pytest.fixture
def plain():
    """Function of q, k, v (B, H, T, D), keys that are seen (B, H, L, S) bool, and what is added to the scores."""

    def plain(q, k, v, seen=None, added=0.0, scale=None):
        # The keys are counted for each sequence.
        scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + added
        seen = torch.ones_like(scores, dtype=torch.bool) if seen is None else seen.expand(scores.shape)
        outputs = []
        for n in range(len(q)):
            keys = sum(bool(seen[n, :, :, j].any()) for j in range(k.shape[2]))
            outputs.append((torch.sigmoid(scores[n] - math.log(max(keys, 1))) * seen[n]) @ v[n])
        return torch.stack(outputs)

    return plain


@pytest.fixture
def no_matrix(monkeypatch):
    """Fails a test that does not take the fused op."""
    monkeypatch.setattr(torch_attention, "attention_weights", lambda *_: pytest.fail("a matrix of weights"))
