"""Lattices: the paths of an utterance that are nearly as good as its best path, equal from every backend.

Every arc reads one token or blank, so a state belongs to one frame, and searches go forward and backward by frames.
A canonical lattice has exactly the arcs that lie on a path within a beam of the best path.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.build import DecodingGraph
from sigmel.decoding.graph.graph import EPSILON, Graph, ranges
from sigmel.decoding.search.hypothesis import NO_END, Hypothesis, segments

Doubles = NDArray[np.float64]
# Several ways from the start to a state: the best score, the log-sum over all, and the trail of the best way, which is
# its last arc and the trail before that, None at the start.
_Ways = tuple[float, float, Any]


class WordSequence(NamedTuple):
    """Words that a lattice may write.

    Attributes:
        words: numbers of the words.
        best: score of the best path that writes them.
        total: logarithm of the sum over all paths that write them.
        arcs: arcs of the best path.
    """

    words: tuple[int, ...]
    best: float
    total: float
    arcs: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Lattice:
    """Paths through a graph, with their scores.

    Attributes:
        source: the graph that was searched.
        log_probs: (T, V) log-probabilities of the model's tokens.
        paths: states in the order of their frames, 0 the start; an arc's score is the sum of model and graph.
        frame: (S,) the frame that the arcs of a state read.
        complete: whether the paths end where the graph may end.
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
        """The lattice of paths that a search has found, sorted by frames and pruned.

        Args:
            source: the graph that was searched.
            log_probs: (T, V) log-probabilities of the model's tokens.
            found: the paths, with the scores of the graph alone; state 0 is the start, others are in any order.
            beam: how much worse than the best a path may be.
            complete: whether the paths end where the graph may end.
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
    def graph(self) -> Graph:
        """The paths with the scores of the graph alone, for losses."""
        model = self.log_probs[self.frame[self.paths.src], self.paths.label - 1]
        return replace(self.paths, score=self.paths.score - model)

    def arcs_by_frame(self) -> list[slice]:
        """The arcs that read each frame."""
        bounds = np.searchsorted(self.frame[self.paths.src], np.arange(len(self.log_probs) + 1))
        return [slice(begin, end) for begin, end in pairwise(bounds)]

    def forward(self) -> Doubles:
        """(S,) the score of the best path from the start to each state."""
        best = np.full(self.paths.num_states, -np.inf)
        best[0] = 0.0
        for arcs in self.arcs_by_frame():
            np.maximum.at(best, self.paths.dst[arcs], best[self.paths.src[arcs]] + self.paths.score[arcs])
        return best

    def backward(self) -> Doubles:
        """(S,) the score of the best path from each state to an end."""
        best = self.paths.final.astype(np.float64)
        for arcs in reversed(self.arcs_by_frame()):
            np.maximum.at(best, self.paths.src[arcs], best[self.paths.dst[arcs]] + self.paths.score[arcs])
        return best

    def scaled(self, scale: float) -> Lattice:
        """The lattice with all scores multiplied; a factor below 1 makes an overconfident model less confident."""
        return replace(self, paths=self.paths.scaled(scale), log_probs=self.log_probs * np.float32(scale))

    def pruned(self, beam: float) -> Lattice:
        """The lattice with exactly the paths that are worse than the best path by at most `beam`."""
        forward, backward = self.forward(), self.backward()
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

    def best(self) -> Hypothesis:
        """The best path."""
        paths, ahead = self.paths, self.backward()
        onward = np.flatnonzero(ahead[paths.src] == ahead[paths.dst] + paths.score)
        arc_of = dict(zip(paths.src[onward].tolist(), onward.tolist(), strict=True))  # on the best way to an end
        arcs, state = [], 0
        while state in arc_of:
            arcs.append(arc_of[state])
            state = int(paths.dst[arcs[-1]])
        return self._hypothesis(arcs)

    def nbest(self, n: int) -> list[Hypothesis]:
        """The best n different sequences of words, best first, each with its best path.

        Sequences with equal scores are sorted by their words.
        """
        found = [self._hypothesis(sequence.arcs) for sequence in islice(self.sequences(), n)]
        return sorted(found, key=lambda hypothesis: (-hypothesis.score, hypothesis.text))

    def sequences(self) -> Iterator[WordSequence]:
        """Different sequences of words, best first.

        Determinising a lattice would give them, too, but can take forever where much is possible. This is a
        best-first search over beginnings of sentences: `backward` tells the score of the best end of each beginning,
        so only beginnings of the best sequences are followed.
        """
        paths, ahead = self.paths, self.backward().tolist()
        starts, final = paths.arcs_of().tolist(), paths.final.tolist()
        arcs = list(zip(itertools.count(), paths.dst.tolist(), paths.aux.tolist(), paths.score.tolist(), strict=False))
        order = itertools.count()  # among equals, the first to come
        # A beginning is its words and the states after its last word, with the ways from the start to each.
        queue: list[tuple[float, int, Any]] = [(-ahead[0], next(order), ((), {0: (0.0, 0.0, None)}))]
        while queue:
            _, _, found = heapq.heappop(queue)
            if isinstance(found, WordSequence):
                yield found
                continue
            words, reached = found
            ended: _Ways | None = None
            onward: dict[int, dict[int, _Ways]] = {}  # next word -> states after this word
            waiting = list(reached)
            heapq.heapify(waiting)
            while waiting:  # states in their order, so that all ways to a state are known when it is left
                state = heapq.heappop(waiting)
                best, total, trail = reached[state]
                if (last := final[state]) > -math.inf:
                    ways = (best + last, total + last, trail)
                    ended = _joined(ended, ways) if ended else ways
                for arc, dst, word, score in arcs[starts[state] : starts[state + 1]]:
                    if word == EPSILON:
                        there = reached
                        if dst not in there:
                            heapq.heappush(waiting, dst)
                    else:
                        there = onward.setdefault(word, {})
                    ways = (best + score, total + score, (arc, trail))
                    there[dst] = _joined(there[dst], ways) if dst in there else ways
            if ended:
                best, total, trail = ended
                heapq.heappush(queue, (-best, next(order), WordSequence(words, best, total, _arcs(trail))))
            for word, there in onward.items():
                bound = max(ways[0] + ahead[state] for state, ways in there.items())
                if bound > -math.inf:
                    heapq.heappush(queue, (-bound, next(order), ((*words, word), there)))

    def _hypothesis(self, arcs: Sequence[int]) -> Hypothesis:
        """The hypothesis of a path, given by its arcs."""
        label, aux, dst = (getattr(self.paths, name)[list(arcs)] for name in ("label", "aux", "dst"))
        alignment = label - 1
        spoken, tokens = segments(self.source, alignment.tolist(), aux[aux != EPSILON].tolist())
        score = self.paths.score[list(arcs)].sum(dtype=np.float64) + self.paths.final[[0, *dst][-1]]
        model = self.log_probs[np.arange(len(alignment)), alignment].sum(dtype=np.float64)
        reason = "" if self.complete else NO_END
        return Hypothesis(spoken, tokens, alignment, float(score), float(score - model), self.complete, reason)


def _joined(ways: _Ways, others: _Ways) -> _Ways:
    """All ways to a state, of two groups of ways."""
    better = ways if ways[0] >= others[0] else others
    top, low = max(ways[1], others[1]), min(ways[1], others[1])
    return better[0], top + math.log1p(math.exp(low - top)), better[2]


def _arcs(trail: Any) -> list[int]:
    """The arcs of a trail, the first of the path first."""
    arcs = []
    while trail is not None:
        arc, trail = trail
        arcs.append(arc)
    return arcs[::-1]


def _frames(graph: Graph) -> NDArray:
    """(S,) the frame of each state, -1 for states out of reach of the start."""
    starts = graph.arcs_of()
    frame = np.full(graph.num_states, -1)
    reached, at = np.zeros(1, np.int64), 0
    while len(reached):
        frame[reached] = at
        arcs = ranges(starts[reached], starts[reached + 1] - starts[reached])
        reached, at = np.unique(graph.dst[arcs]), at + 1
    return frame
