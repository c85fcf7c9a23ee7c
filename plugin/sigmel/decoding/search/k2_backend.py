"""The backend k2: batches on a GPU, or on a CPU.

This module uses only features of torch 1.13 and k2 1.23, since k2 has wheels for few versions of torch.

https://github.com/k2-fsa/k2
"""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from sigmel.decoding.graph.build import DecodingGraph
from sigmel.decoding.graph.graph import EPSILON, Graph
from sigmel.decoding.graph.openfst import without_epsilons
from sigmel.decoding.search.hypothesis import Hypothesis, empty
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.search_width import Search, check_utterance, utterances
from sigmel.errors import SigmelError


def problem() -> str:
    """The reason why k2 cannot be used here, and what to install; "" if k2 can be used."""
    try:
        import k2  # noqa: F401
    except Exception as error:  # a k2 built for another torch fails in many ways
        return f"k2 cannot be imported ({' '.join(str(error).split())[:200]}); install {k2_wheel()}"
    return ""


def k2_wheel() -> str:
    """The wheel of k2 to install. Every wheel is for one torch and one Python, so pip alone picks a wrong wheel."""
    try:
        found, _, build = version("torch").partition("+")
    except PackageNotFoundError:
        found, build = "", "cpu"
    page = "cpu" if build == "cpu" or sys.platform != "linux" else "cuda"
    names = f"torch{found} and cp{sys.version_info[0]}{sys.version_info[1]} in its name"
    return f"the wheel with {names} at https://k2-fsa.github.io/k2/{page}.html, if there is one"


class PrunedGraph:
    """A graph that k2 searches: only paths within the beams count.

    Args:
        graph: the graph, such as `DecodingGraph.graph`.
        search: how widely to search.
        device: where to search.

    Raises:
        SigmelError: k2 cannot be used (the message names the wheel to install), or the graph is too large without
            epsilons, which k2 does not take.
    """

    def __init__(self, graph: Graph, search: Search | None = None, device: str | torch.device = "cpu") -> None:
        if reason := problem():
            raise SigmelError(reason)
        self.graph = without_epsilons(graph)
        self.search = search or Search()
        self.device = torch.device(device)
        self._ended = self.graph.with_end(EPSILON)
        self._fsa = _to_k2(self._ended, self.device)

    def total_score(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The logarithm of the sum over all paths within the beams; `losses.graph.total_score` sums over all paths.

        Args:
            log_probs: (B, T, V) log-probabilities of the model's tokens; gradients go to them.
            lengths: (B,) frames of each utterance.

        Returns:
            (B,) float64; -inf where no path is left.
        """
        total = torch.full((len(lengths),), float(self.graph.final[0]), dtype=torch.float64, device=self.device)
        if which := _longest_first(lengths, [at for at, length in enumerate(lengths.tolist()) if length]):
            found = self.intersect(log_probs, lengths, which).get_tot_scores(log_semiring=True, use_double_scores=True)
            total = total.index_copy(0, torch.tensor(which, device=self.device), found)
        return total

    def intersect(self, log_probs: torch.Tensor, lengths: torch.Tensor, which: list[int]) -> Any:
        """k2's lattices of the utterances `which`, the longest first."""
        import k2

        pieces = torch.tensor([[at, 0, int(lengths[at])] for at in which], dtype=torch.int32)
        return k2.intersect_dense_pruned(
            self._fsa,
            k2.DenseFsaVec(log_probs.to(self.device, torch.float32).clone(), pieces),
            search_beam=self.search.beam,
            output_beam=self.search.lattice_beam,
            min_active_states=self.search.min_active,
            max_active_states=self.search.max_active,
        )

    def paths(self, lattice: Any) -> Graph | None:
        """The paths of a lattice of k2's, with the scores of the graph; None if there is no path."""
        arcs, number = lattice.arcs.values().cpu().numpy(), lattice.graph_arc.cpu().numpy()
        if not len(arcs):
            return None
        label, aux, score = (getattr(self._ended, name)[number] for name in ("label", "aux", "score"))
        ends = label == EPSILON
        final = np.full(int(arcs[:, :2].max()) + 1, -np.inf, np.float32)
        final[arcs[ends, 0]] = score[ends]
        src, dst = arcs[~ends, 0], arcs[~ends, 1]
        return Graph.from_arcs(src, dst, label[~ends], aux[~ends], score[~ends], final)


def _longest_first(lengths: torch.Tensor, which: list[int]) -> list[int]:
    """The utterances `which`, in the order that k2 needs."""
    return sorted(which, key=lambda at: -int(lengths[at]))


class K2Decoder:
    """Decodes batches.

    Args:
        graph: the graph to search.
        search: how widely to search.
        device: where to search.
    """

    def __init__(self, graph: DecodingGraph, search: Search | None = None, device: str | torch.device = "cpu") -> None:
        self.graph = graph
        self._pruned = PrunedGraph(graph.graph, search, device)

    def lattices(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Lattice | Hypothesis]:
        """The paths of each utterance within `lattice_beam` of its best, or an empty hypothesis with a reason.

        Args:
            log_probs: (B, T, V) log-probabilities of the model's tokens.
            lengths: (B,) frames of each utterance.
        """
        log_probs = log_probs.detach()
        frames = utterances(log_probs, lengths)
        reasons = [check_utterance(rows, len(self.graph.tokens)) for rows in frames]
        found: dict[int, Lattice | Hypothesis] = {at: empty(why) for at, why in enumerate(reasons) if why}
        # k2 finds nothing where no path ends in a final state. Then paths may end anywhere, as with Kaldi.
        pruned, beam = self._pruned, self._pruned.search.lattice_beam
        for complete in (True, False):
            if not (left := _longest_first(lengths, [at for at in range(len(frames)) if at not in found])):
                break
            if not complete:
                anywhere = replace(pruned.graph, final=np.zeros_like(pruned.graph.final))
                pruned = PrunedGraph(anywhere, pruned.search, pruned.device)
            lattice = pruned.intersect(log_probs, lengths, left)
            for number, at in enumerate(left):
                if (paths := pruned.paths(lattice[number])) is not None:
                    found[at] = Lattice.canonical(self.graph, frames[at], paths, beam, complete)
        return [found.get(at, empty("no path is left")) for at in range(len(frames))]


def _to_k2(graph: Graph, device: torch.device) -> Any:
    """The graph as a vector of one FSA whose labels are the model's tokens; `graph_arc` numbers the arcs.

    In k2, paths end in a single state, which arcs labelled -1 enter: those that read epsilon, see `Graph.with_end`.
    """
    import k2

    columns = np.stack([graph.src, graph.dst, graph.label - 1, graph.score.view(np.int32)], axis=1)
    fsa = k2.Fsa(torch.from_numpy(np.ascontiguousarray(columns)))
    fsa.graph_arc = torch.arange(graph.num_arcs, dtype=torch.int32)
    return k2.create_fsa_vec([fsa]).to(device)
