"""Sums over the paths that k2 keeps, against the sum over all of them."""

import k2
import pytest
import torch

from sigmel.decoding.graph.arpa_ngrams import train_ngrams
from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search.k2_backend import PrunedGraph
from sigmel.decoding.search.search_width import Search
from sigmel.losses.graph import ctc_graphs, mmi_loss, total_score

TOKENS = ("<blk>", "a", "b", "c")
LEXICON = Lexicon({"ab": ((1, 2),), "a": ((1,),), "cab": ((3, 1, 2),)})
GRAPH = build(TOKENS, 0, LEXICON, train_ngrams([["ab", "a"], ["cab"], ["a", "a"]], 2)).graph
WIDE = Search(beam=200.0, lattice_beam=100.0, max_active=100_000)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(4, 12, len(TOKENS), generator=generator).log_softmax(-1).requires_grad_()
    return log_probs, torch.tensor([9, 12, 0, 5])


def test_with_wide_beams_all_paths_count(batch):
    log_probs, lengths = batch
    theirs, ours = PrunedGraph(GRAPH, WIDE).total_score(*batch), total_score(log_probs, lengths, [GRAPH] * 4)
    assert torch.allclose(theirs, ours, atol=1e-4)
    weights = torch.tensor([1.0, 2.0, 3.0, -1.0], dtype=torch.float64)
    grads = [torch.autograd.grad((weights * total).sum(), log_probs)[0] for total in (theirs, ours)]
    assert torch.allclose(*grads, atol=1e-4)
    assert grads[0].abs().sum() > 1


def test_narrow_beams_leave_paths_out(batch, monkeypatch):
    calls = []
    search = k2.intersect_dense_pruned
    monkeypatch.setattr(k2, "intersect_dense_pruned", lambda *a, **o: calls.append(1) or search(*a, **o))
    narrow = PrunedGraph(GRAPH, Search(beam=6.0, lattice_beam=1.0)).total_score(*batch)
    everything = total_score(*batch, [GRAPH] * 4)
    assert calls == [1]
    assert torch.all(narrow <= everything + 1e-4)
    assert narrow[1] < everything[1] - 0.1


def test_mmi_takes_it_for_all_that_could_be_said(batch):
    log_probs, lengths = batch
    targets, target_lengths = torch.tensor([[1, 2, 1]] * 4), torch.tensor([2, 3, 0, 1])
    said = ctc_graphs(targets, target_lengths)
    pruned = mmi_loss(log_probs, lengths, said, PrunedGraph(GRAPH, WIDE), "none")
    assert torch.allclose(pruned, mmi_loss(log_probs, lengths, said, GRAPH, "none"), atol=1e-4)
