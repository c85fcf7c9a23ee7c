"""Losses against torch's own, against every path, and against numerical gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from sigmel.decoding import Search, build
from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.topology import TOPOLOGIES
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.errors import SigmelError
from sigmel.losses.graph import PackedGraphs, ctc_graphs, ctc_loss, mmi_loss, mwer_loss, total_score
from sigmel.losses.transducer import transducer_loss


def batch(seed, frames=9, tokens=4, vocabulary=5, blank=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, frames, vocabulary, generator=generator, requires_grad=True)
    targets = torch.randint(vocabulary - 1, (3, tokens), generator=generator)
    targets += (targets >= blank).long()
    input_lengths = torch.tensor([frames, frames - 1, max(1, frames - 4)])
    target_lengths = torch.tensor([tokens, 0, max(0, tokens - 2)])
    return logits, targets, input_lengths, target_lengths


@given(
    seed=st.integers(0, 10**6), blank=st.sampled_from([0, 2, 4]), reduction=st.sampled_from(["none", "sum", "mean"])
)
@settings(max_examples=25, deadline=None)
def test_ctc_is_torchs(seed, blank, reduction):
    logits, targets, input_lengths, target_lengths = batch(seed, blank=blank)
    expected = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        targets,
        input_lengths,
        target_lengths,
        blank,
        reduction,
        zero_infinity=True,
    )
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    found = ctc_loss(
        logits.log_softmax(-1),
        targets,
        input_lengths,
        target_lengths,
        blank,
        "standard",
        reduction,
        zero_infinity=True,
    )
    (grad,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad, expected_grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_sums_over_its_frames(brute_force, topology):
    logits, targets, _, _ = batch(3, frames=4, tokens=2, vocabulary=3)
    log_probs = logits.log_softmax(-1)
    lengths, target_lengths = torch.tensor([4, 3, 4]), torch.tensor([2, 1, 0])
    found = ctc_loss(log_probs, targets, lengths, target_lengths, topology=topology, reduction="none")
    for row in range(3):
        said = tuple(targets[row, : target_lengths[row]].tolist())
        total = 0.0
        for frames in itertools.product(range(3), repeat=int(lengths[row])):
            if said in brute_force.collapse(frames, 0, topology):
                total += math.exp(sum(log_probs[row, at, token].item() for at, token in enumerate(frames)))
        assert found[row].item() == pytest.approx(-math.log(total), abs=1e-5)


def test_too_few_frames_are_infinitely_bad_and_give_no_gradient():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    arguments = (torch.tensor([[1, 1]]), torch.tensor([2]), torch.tensor([2]))
    assert ctc_loss(logits.log_softmax(-1), *arguments, reduction="none").item() == math.inf
    loss = ctc_loss(logits.log_softmax(-1), *arguments, zero_infinity=True)
    loss.backward()
    assert loss.item() == 0.0
    assert not logits.grad.any()


def test_padding_changes_nothing():
    logits, targets, input_lengths, target_lengths = batch(5)
    log_probs = logits.log_softmax(-1).detach()
    together = ctc_loss(log_probs, targets, input_lengths, target_lengths, reduction="none")
    garbage = log_probs.clone()
    garbage[1, input_lengths[1] :] = math.nan
    garbage[2, input_lengths[2] :] = 7.0
    again = ctc_loss(garbage, targets, input_lengths, target_lengths, reduction="none")
    assert torch.equal(again, together)


def random_graph(seed):
    """A graph over two tokens with cycles."""
    random = np.random.default_rng(seed)
    src, dst = random.integers(0, 3, (2, 8))
    final = np.where(random.random(3) < 0.6, random.normal(size=3), -np.inf)
    final[0] = 0.5
    return Graph.from_arcs(src, dst, random.integers(1, 3, 8), np.zeros(8), random.normal(size=8), final)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_total_is_that_of_all_paths(brute_force, seed):
    graph = random_graph(seed)
    log_probs = torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    total = 0.0
    for tokens in itertools.product(range(2), repeat=4):
        model = sum(log_probs[0, at, token].item() for at, token in enumerate(tokens))
        total += sum(math.exp(model + score) for _, score in brute_force.paths(graph, [token + 1 for token in tokens]))
    found = total_score(log_probs, torch.tensor([4]), [graph])
    assert found.item() == pytest.approx(math.log(total) if total else -math.inf, abs=1e-5)


def test_gradients_are_numerical_ones():
    graphs = PackedGraphs.pack([random_graph(1), random_graph(2)])
    log_probs = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 3])
    assert torch.autograd.gradcheck(lambda x: total_score(x, lengths, graphs), (log_probs,))


LEXICON = Lexicon({"ab": ((1, 2),), "a": ((1,),), "b": ((2,),)})
BUILT = build(("<blk>", "a", "b"), 0, LEXICON)


def test_mmi_over_a_lattice_is_mmi_over_its_graph():
    logits = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    log_probs = logits.log_softmax(-1)
    lattice = KaldiDecoder(BUILT, Search(beam=200.0, lattice_beam=100.0)).lattice(log_probs[0].detach().numpy())
    said = ctc_graphs(torch.tensor([[1, 2]]), torch.tensor([2]))
    lengths = torch.tensor([6])
    whole = mmi_loss(log_probs, lengths, said, BUILT.graph)
    assert mmi_loss(log_probs, lengths, said, [lattice.graph]).item() == pytest.approx(whole.item(), abs=1e-4)
    for _ in range(20):
        (grad,) = torch.autograd.grad(mmi_loss(logits.log_softmax(-1), lengths, said, BUILT.graph), logits)
        logits = (logits - 5.0 * grad).detach().requires_grad_()
    after = mmi_loss(logits.log_softmax(-1), lengths, said, BUILT.graph).item()
    # "ab" and "a b" are the same tokens, so both can be said, and only their sum can be certain.
    assert math.log(2) / 6 < after < 1.3 * math.log(2) / 6 < whole.item()


def test_mwer_prefers_fewer_errors():
    scores = torch.tensor([0.0, 1.0, -1.0], requires_grad=True)
    errors = torch.tensor([0, 2, 1])
    loss = mwer_loss([scores], [errors])
    share = scores.detach().softmax(0)
    assert loss.item() == pytest.approx(float(share @ errors.float()) - 1.0)
    loss.backward()
    expected = share * (errors - float(share @ errors.float()))
    torch.testing.assert_close(scores.grad, expected)
    assert scores.grad[0] < 0 < scores.grad[1]


@given(seed=st.integers(0, 10**6), fastemit=st.sampled_from([0.0, 0.3]))
@settings(max_examples=15, deadline=None)
def test_the_transducer_sums_over_all_alignments(seed, fastemit):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 4, (2, 2), generator=generator)
    frames, tokens = torch.tensor([3, 2]), torch.tensor([2, 1])
    log_probs = logits.log_softmax(-1)
    found = transducer_loss(log_probs, targets, frames, tokens, fastemit=fastemit, reduction="none")

    total = []
    for row in range(2):
        # An alignment is the places of the tokens among frames; the last step is a blank.
        steps = int(frames[row] + tokens[row]) - 1
        ways = []
        for said in itertools.combinations(range(steps), int(tokens[row])):
            t = u = 0
            score = log_probs.new_zeros(())
            for step in range(steps):
                token = targets[row, u] if step in said else 0
                score = score + log_probs[row, t, u, token]
                t, u = (t, u + 1) if step in said else (t + 1, u)
            ways.append(score + log_probs[row, t, u, 0])
        total.append(torch.logsumexp(torch.stack(ways), 0))
    expected = -torch.stack(total)
    torch.testing.assert_close(found, expected)

    (grad,) = torch.autograd.grad(found.sum(), log_probs, retain_graph=True)
    (plain,) = torch.autograd.grad(expected.sum(), log_probs)
    plain = plain.clone()
    plain[..., 1:] *= 1 + fastemit
    torch.testing.assert_close(grad, plain)


def test_the_transducer_minds_no_padding():
    log_probs = torch.randn(1, 4, 3, 5).log_softmax(-1)
    targets, frames, tokens = torch.tensor([[2, 3]]), torch.tensor([2]), torch.tensor([1])
    short = transducer_loss(log_probs[:, :2, :2].contiguous(), targets[:, :1], frames, tokens)
    log_probs = log_probs.clone().requires_grad_()
    padded = transducer_loss(log_probs, targets, frames, tokens)
    assert padded.item() == pytest.approx(short.item(), abs=1e-6)
    padded.backward()
    assert not log_probs.grad[:, 2:].any()
    assert not log_probs.grad[:, :, 2:].any()


def test_a_transducer_that_says_nothing():
    log_probs = torch.randn(1, 3, 1, 5).log_softmax(-1).requires_grad_()
    loss = transducer_loss(log_probs, torch.zeros(1, 0), torch.tensor([3]), torch.tensor([0]))
    loss.backward()
    assert loss.item() == pytest.approx(-log_probs[0, :, 0, 0].sum().item(), abs=1e-6)
    assert torch.equal(log_probs.grad[0, :, 0], -torch.eye(5)[:1].expand(3, 5))


def test_epsilons_are_passed():
    graph = Graph.from_arcs([0, 1, 2], [1, 2, 3], [2, 0, 3], [0, 0, 0], [0.0, -0.5, 0.25], [-np.inf] * 3 + [0.0])
    log_probs = torch.randn(2, 2, 3).log_softmax(-1)
    found = total_score(log_probs, torch.tensor([2, 2]), [graph, graph])
    assert found.tolist() == pytest.approx((log_probs[:, 0, 1] + log_probs[:, 1, 2] - 0.25).tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: total_score(x, torch.tensor([3]), []), "there is no graph"),
        (lambda x: total_score(x, torch.tensor([3, 3]), [random_graph(0)]), "and B graphs"),
        (lambda x: total_score(x[..., :1], torch.tensor([3]), [random_graph(0)]), "reads token 1; the model has 1"),
        (lambda x: ctc_loss(x, *[torch.tensor(y) for y in ([[1]], [3], [1])], reduction="all"), "'all' is unknown"),
        (lambda x: transducer_loss(x[:, :, None], torch.ones(1, 2), torch.tensor([3]), torch.tensor([0])), "are not"),
        (lambda x: transducer_loss(x[:, :, None], torch.ones(1, 0), torch.tensor([0]), torch.tensor([0])), "lengths"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(SigmelError, match=message):
        call(torch.zeros(1, 3, 3))
