"""Lattices: the paths of an utterance that are nearly as good as its best one, the same from every backend.

Their arcs read one token or blank each, so a state belongs to one frame, and forward and backward sums go frame by
frame. A canonical lattice has all arcs, and only those, that lie on a path within a beam of the best one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.build import DecodingGraph
from sigmel.decoding.graph.graph import Graph, ranges
from sigmel.decoding.graph.openfst import composed, shortest_paths
from sigmel.decoding.search.hypothesis import NO_END, Hypothesis, segments
from sigmel.decoding.search.word_search import Found, best_sequences

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lattice:
    """Paths through a graph, with their scores.

    Attributes:
        source: the graph that was decoded with.
        log_probs: (T, V) log-probabilities of the model's tokens.
        paths: states in the order of their frames, 0 the start; an arc's score is that of model and graph together.
        frame: (S,) the frame that the arcs of a state read.
        complete: whether its paths end where the graph may end.
    """

    source: DecodingGraph
    log_probs: NDArray[np.float32]
    paths: Graph
    frame: NDArray[np.int32]
    complete: bool = True

    @classmethod
    def canonical(
        cls,
        source: DecodingGraph,
        log_probs: NDArray[np.float32],
        found: Graph,
        beam: float,
        complete: bool = True,
    ) -> Lattice:
        """Put paths in order and keep those within a beam of the best one.

        Args:
            source: the graph that was decoded with.
            log_probs: (T, V) log-probabilities of the model's tokens.
            found: the paths, states in any order but for the start, with the scores of the graph alone.
            beam: how much worse than the best a path may be.
            complete: see above.
        """
        frame = _frames(found)
        reached = frame >= 0
        number = np.cumsum(reached) - 1
        order = np.argsort(frame[reached], kind="stable")
        number = np.argsort(order)[number]  # of reached states in the order of their frames
        arcs = reached[found.src]
        src, dst, label = number[found.src[arcs]], number[found.dst[arcs]], found.label[arcs]
        score = found.score[arcs] + log_probs[frame[found.src[arcs]], label - 1]
        paths = Graph.from_arcs(src, dst, label, found.aux[arcs], score, found.final[reached][order])
        return cls(source, log_probs, paths, frame[reached][order].astype(np.int32), complete).pruned(beam)

    @property
    def graph_score(self) -> NDArray[np.float32]:
        """(A,) the graph's part of the arcs' scores."""
        return self.paths.score - self.log_probs[self.frame[self.paths.src], self.paths.label - 1]

    @property
    def graph(self) -> Graph:
        """The paths with the scores of the graph alone, for losses."""
        return replace(self.paths, score=self.graph_score)

    def forward(self, add: np.ufunc = np.logaddexp) -> Doubles:
        """(S,) the sum over all paths from the start to each state; with ``np.maximum``, the best of them."""
        total = np.full(self.paths.num_states, -np.inf)
        total[0] = 0.0
        for arcs in self._arcs_by_frame():
            add.at(total, self.paths.dst[arcs], total[self.paths.src[arcs]] + self.paths.score[arcs])
        return total

    def backward(self, add: np.ufunc = np.logaddexp) -> Doubles:
        """(S,) the sum over all paths from each state to an end; with ``np.maximum``, the best of them."""
        total = self.paths.final.astype(np.float64)
        for arcs in reversed(self._arcs_by_frame()):
            add.at(total, self.paths.src[arcs], total[self.paths.dst[arcs]] + self.paths.score[arcs])
        return total

    def posterior(self) -> Doubles:
        """(A,) the probability that a path takes an arc."""
        forward, backward = self.forward(), self.backward()
        return np.exp(forward[self.paths.src] + self.paths.score + backward[self.paths.dst] - backward[0])

    def scaled(self, scale: float) -> Lattice:
        """The same paths with all scores multiplied: below 1, a model that is too sure of itself becomes less so."""
        return replace(self, paths=self.paths.scaled(scale), log_probs=self.log_probs * np.float32(scale))

    def pruned(self, beam: float) -> Lattice:
        """Only the paths that are worse than the best one by at most ``beam``, exactly."""
        forward, backward = self.forward(np.maximum), self.backward(np.maximum)
        through = forward[self.paths.src] + self.paths.score + backward[self.paths.dst]
        keep = through >= backward[0] - beam
        ends = np.where(forward + self.paths.final >= backward[0] - beam, self.paths.final, np.float32(-np.inf))
        used = np.zeros(self.paths.num_states, bool)
        used[0] = True
        used[self.paths.dst[keep]] = True
        number = (np.cumsum(used) - 1).astype(np.int32)
        columns = {name: getattr(self.paths, name)[keep] for name in ("label", "aux", "score")}
        paths = Graph(number[self.paths.src[keep]], number[self.paths.dst[keep]], **columns, final=ends[used])
        return replace(self, paths=paths, frame=self.frame[used])

    def sequences(self) -> Iterator[Found]:
        """Different sequences of words, by their numbers, best first."""
        return best_sequences(self.paths, self.backward(np.maximum))

    def nbest(self, n: int) -> list[Hypothesis]:
        """The best n different sequences of words, best first, each with its best path.

        Equal scores are put in the order of their words, so the result depends on nothing else than the lattice.
        """
        found = [self.best(words) for words, _, _ in islice(self.sequences(), n)]
        return sorted(found, key=lambda one: (-one.score, one.text))

    def best(self, words: Sequence[int] | None = None) -> Hypothesis:
        """The best path, or the best one that writes ``words``, given by their numbers.

        Raises:
            SigmelError: no path writes them.
        """
        paths = self.paths
        if words is not None:
            paths = composed(paths, Graph.linear(words, words))
        ((labels, written, score),) = shortest_paths(paths, 1)
        alignment = np.asarray(labels, np.int32) - 1
        spoken, tokens = segments(self.source, alignment.tolist(), written)
        model = float(self.log_probs[np.arange(len(alignment)), alignment].sum(dtype=np.float64))
        reason = "" if self.complete else NO_END
        return Hypothesis(spoken, tokens, alignment, score, score - model, self.complete, reason)

    def _arcs_by_frame(self) -> list[slice]:
        bounds = np.searchsorted(self.frame[self.paths.src], np.arange(len(self.log_probs) + 1))
        return [slice(begin, end) for begin, end in pairwise(bounds)]


def _frames(graph: Graph) -> NDArray:
    """The frame of each state, -1 where the start does not lead."""
    starts = graph.arcs_of()
    frame = np.full(graph.num_states, -1)
    reached, at = np.zeros(1, np.int64), 0
    while len(reached):
        frame[reached] = at
        arcs = ranges(starts[reached], starts[reached + 1] - starts[reached])
        reached, at = np.unique(graph.dst[arcs]), at + 1
    return frame
