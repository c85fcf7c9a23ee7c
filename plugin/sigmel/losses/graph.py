"""Losses over graphs: CTC with any topology, maximum mutual information, minimum word error rate.

CTC and maximum mutual information rest on one differentiable number, the logarithm of the sum over all paths of a
graph, computed in float64.

Graves et al., "Connectionist temporal classification" (ICML 2006); Hannun, Pratap, Kahn and Hsu, "Differentiable
weighted finite-state transducers" (2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.openfst import without_epsilons
from sigmel.decoding.graph.topology import expand
from sigmel.errors import SigmelError
from sigmel.losses.reduction import reduced

if TYPE_CHECKING:
    from sigmel.decoding.search.k2_backend import PrunedGraph


@dataclass(frozen=True, eq=False)
class PackedGraphs:
    """The arcs of a batch of graphs, one after the other.

    Attributes:
        src, dst: (A,) states, numbered through the batch.
        token: (A,) the model's token that an arc reads.
        score: (A,) float64.
        owner: (A,) the graph of an arc.
        final: (S,) float64.
        owner_of_state: (S,) the graph of a state.
        start: (B,) the first state of each graph.
    """

    src: Tensor
    dst: Tensor
    token: Tensor
    score: Tensor
    owner: Tensor
    final: Tensor
    owner_of_state: Tensor
    start: Tensor

    @classmethod
    def pack(cls, graphs: Sequence[Graph], device: torch.device | str = "cpu") -> PackedGraphs:
        """Pack graphs, such as `expand` makes, without their epsilons.

        Raises:
            SigmelError: there is no graph, or a graph is too large without epsilons.
        """
        if not graphs:
            raise SigmelError("there is no graph")
        plain = {id(graph): without_epsilons(graph) for graph in graphs}  # often all graphs are the same object
        graphs = [plain[id(graph)] for graph in graphs]
        states = np.array([graph.num_states for graph in graphs])
        start = np.cumsum(states) - states
        owner = np.repeat(np.arange(len(graphs)), [graph.num_arcs for graph in graphs])

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(graph, name) for graph in graphs])

        arrays = (
            joined("src") + start[owner],
            joined("dst") + start[owner],
            joined("label").astype(np.int64) - 1,
            joined("score").astype(np.float64),
            owner,
            joined("final").astype(np.float64),
            np.repeat(np.arange(len(graphs)), states),
            start,
        )
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


def total_score(log_probs: Tensor, lengths: Tensor, graphs: PackedGraphs | Sequence[Graph]) -> Tensor:
    """The logarithm of the sum over all paths of each graph; scores of arcs and of the tokens they read are added.

    Args:
        log_probs: (B, T, V) log-probabilities of the model's tokens; gradients go to them.
        lengths: (B,) frames of each utterance.
        graphs: the graph of each utterance.

    Returns:
        (B,) float64; -inf where no path has as many frames as the utterance.

    Raises:
        SigmelError: the shapes do not fit each other or the graphs.
    """
    packed = graphs if isinstance(graphs, PackedGraphs) else PackedGraphs.pack(graphs, log_probs.device)
    if log_probs.dim() != 3 or lengths.shape != log_probs.shape[:1] or len(packed.start) != len(lengths):
        shapes = f"{tuple(log_probs.shape)}, lengths {tuple(lengths.shape)} and {len(packed.start)} graphs"
        raise SigmelError(f"log-probabilities {shapes} are not (B, T, V), (B,) and B graphs")
    if len(packed.token) and int(packed.token.max()) >= log_probs.shape[2]:
        raise SigmelError(f"a graph reads token {int(packed.token.max())}; the model has {log_probs.shape[2]}")
    return _TotalScore.apply(log_probs, lengths.to(log_probs.device), packed)


class _TotalScore(torch.autograd.Function):
    """The forward sum, whose derivative is the probability that a path reads a token in a frame."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, graphs: PackedGraphs) -> Tensor:
        num_states, frames = len(graphs.final), log_probs.shape[1]
        alpha = log_probs.new_full((frames + 1, num_states), -torch.inf, dtype=torch.float64)
        alpha[0, graphs.start] = 0.0
        for at in range(frames):
            along = alpha[at, graphs.src] + graphs.score + log_probs[graphs.owner, at, graphs.token].double()
            after = _logsumexp(along, graphs.dst, num_states)
            alpha[at + 1] = torch.where(at < lengths[graphs.owner_of_state], after, alpha[at])
        total = _logsumexp(alpha[frames] + graphs.final, graphs.owner_of_state, len(lengths))
        ctx.save_for_backward(log_probs, lengths, alpha, total)
        ctx.graphs = graphs
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        log_probs, lengths, alpha, total = ctx.saved_tensors
        graphs: PackedGraphs = ctx.graphs
        grad = torch.zeros(log_probs.shape, dtype=torch.float64, device=log_probs.device)
        of_arc = torch.where(torch.isfinite(total), grads[0].double(), 0.0)[graphs.owner]
        reach = torch.where(torch.isfinite(total), total, 0.0)[graphs.owner]
        beta = graphs.final
        for at in reversed(range(log_probs.shape[1])):
            ahead = graphs.score + log_probs[graphs.owner, at, graphs.token].double() + beta[graphs.dst]
            here = at < lengths
            taken = torch.where(here[graphs.owner], torch.exp(alpha[at, graphs.src] + ahead - reach) * of_arc, 0.0)
            grad[:, at].index_put_((graphs.owner, graphs.token), taken, accumulate=True)
            before = _logsumexp(ahead, graphs.src, len(beta))
            beta = torch.where(here[graphs.owner_of_state], before, beta)
        return grad.to(log_probs.dtype), None, None


def _logsumexp(values: Tensor, groups: Tensor, size: int) -> Tensor:
    """(size,) the logarithm of the sum of exponentials of each group; -inf for an empty group."""
    top = values.new_full((size,), -torch.inf).scatter_reduce(0, groups, values, "amax")
    base = torch.where(torch.isfinite(top), top, 0.0)
    return torch.log(torch.zeros_like(top).index_add(0, groups, torch.exp(values - base[groups]))) + base


def ctc_graphs(targets: Tensor, target_lengths: Tensor, blank: int = 0, topology: str = "standard") -> list[Graph]:
    """For each utterance, the graph that reads the frames of its targets.

    Args:
        targets: (B, U) tokens.
        target_lengths: (B,) tokens of each utterance.
        blank: the number of the blank.
        topology: see `expand`.
    """
    pairs = zip(targets.cpu().numpy(), target_lengths.tolist(), strict=True)
    labels = (row[:length] + 1 for row, length in pairs)
    return [expand(Graph.linear(label, 0 * label), blank, topology) for label in labels]


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    topology: str = "standard",
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """CTC with any topology; with the standard topology, equal to `torch.nn.functional.ctc_loss`.

    Args:
        log_probs: (B, T, V) log-probabilities; torch has the frames first.
        targets: (B, U) tokens.
        input_lengths: (B,) frames.
        target_lengths: (B,) tokens.
        blank: the number of the blank.
        topology: see `expand`.
        reduction: "none", "sum", or "mean", for which each loss is divided by its number of tokens.
        zero_infinity: whether an utterance with too few frames counts as 0.
    """
    graphs = ctc_graphs(targets, target_lengths, blank, topology)
    loss = -total_score(log_probs, input_lengths, graphs)
    if zero_infinity:
        loss = torch.where(torch.isinf(loss), 0.0, loss)
    if reduction == "mean":
        loss = loss / target_lengths.to(loss).clamp(min=1)
    return reduced(loss, reduction).to(log_probs.dtype)


def mmi_loss(
    log_probs: Tensor,
    lengths: Tensor,
    numerators: Sequence[Graph],
    denominators: Graph | Sequence[Graph] | PrunedGraph,
    reduction: str = "mean",
) -> Tensor:
    """Maximum mutual information: the score of everything that could be said, less the score of what was said.

    Povey et al., "Purely sequence-trained neural networks for ASR based on lattice-free MMI" (Interspeech 2016).

    Args:
        log_probs: (B, T, V) log-probabilities or scores; they need not be normalised.
        lengths: (B,) frames.
        numerators: what was said, see `ctc_graphs`; with the scores of the language model, if the denominators have
            them.
        denominators: what could be said: one graph for all utterances, such as an HLG, preferably made by
            `without_epsilons`, or every call removes them anew; such a graph as a `PrunedGraph`; or a graph for each
            utterance, such as `Lattice.graph`.
        reduction: "none", "sum", or "mean", for which each loss is divided by its number of frames.
    """
    if isinstance(denominators, Graph):
        denominators = [denominators] * len(numerators)
    if isinstance(denominators, Sequence):
        everything = total_score(log_probs, lengths, denominators)
    else:
        everything = denominators.total_score(log_probs, lengths)
    loss = everything - total_score(log_probs, lengths, numerators)
    if reduction == "mean":
        loss = loss / lengths.to(loss).clamp(min=1)
    return reduced(loss, reduction).to(log_probs.dtype)


def mwer_loss(scores: Sequence[Tensor], errors: Sequence[Tensor], reduction: str = "mean") -> Tensor:
    """Minimum word error rate: the expected number of errors of n-best lists.

    Prabhavalkar et al., "Minimum word error rate training for attention-based sequence-to-sequence models" (ICASSP
    2018), equation 3.

    Args:
        scores: for each utterance, (N,) log-probabilities of its hypotheses, up to a constant; gradients go to them.
        errors: for each utterance, (N,) word errors of its hypotheses.
        reduction: "none", "sum" or "mean".
    """
    losses = []
    for score, error in zip(scores, errors, strict=True):
        excess = error.to(score) - error.to(score).mean()  # lowers the variance, not the minimum
        losses.append((score.softmax(0) * excess).sum())
    return reduced(torch.stack(losses), reduction)
