"""The best different sequences of words in a lattice, one after the other, best first.

Determinising a lattice would give the same, but can take for ever where much is possible. This is a best-first search
over beginnings of sentences: how good the best end of each can be is known from the backward sums, so no beginning is
looked at that is not among the best.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sigmel.decoding.graph.graph import EPSILON, Graph


class Found(NamedTuple):
    """A sequence of words, its best path's score, and the logarithm of the sum over all its paths."""

    words: tuple[int, ...]
    best: float
    total: float


@dataclass(frozen=True)
class _Beginning:
    """Words, and the states after the last of them, each with the best score and the sum of the paths so far."""

    words: tuple[int, ...]
    states: dict[int, tuple[float, float]]


def best_sequences(paths: Graph, backward: np.ndarray) -> Iterator[Found]:
    """Sequences of words in descending order of their best path's scores.

    Args:
        paths: a graph without cycles whose arcs lead to states of greater numbers.
        backward: (S,) the best score from each state to an end.
    """
    starts = paths.arcs_of().tolist()
    arcs = list(zip(paths.dst.tolist(), paths.aux.tolist(), paths.score.tolist(), strict=True))
    final, ahead = paths.final.tolist(), backward.tolist()
    order = itertools.count()  # among equals, who came first
    queue: list[tuple[float, int, _Beginning | Found]] = [(-ahead[0], next(order), _Beginning((), {0: (0.0, 0.0)}))]
    while queue:
        _, _, best = heapq.heappop(queue)
        if isinstance(best, Found):
            yield best
            continue
        ended = (-math.inf, -math.inf)
        onward: dict[int, dict[int, tuple[float, float]]] = {}
        reached = dict(best.states)
        waiting = list(reached)
        heapq.heapify(waiting)
        while waiting:  # states in their order, so that each is complete when it is left
            state = heapq.heappop(waiting)
            score = reached[state]
            if final[state] > -math.inf:
                ended = _either(ended, score, final[state])
            for dst, word, step in arcs[starts[state] : starts[state + 1]]:
                there = reached if word == EPSILON else onward.setdefault(word, {})
                if dst not in there:
                    there[dst] = (score[0] + step, score[1] + step)
                    if word == EPSILON:
                        heapq.heappush(waiting, dst)
                else:
                    there[dst] = _either(there[dst], score, step)
        if ended[0] > -math.inf:
            heapq.heappush(queue, (-ended[0], next(order), Found(best.words, *ended)))
        for word, states in onward.items():
            bound = max(score[0] + ahead[state] for state, score in states.items())
            if bound > -math.inf:
                heapq.heappush(queue, (-bound, next(order), _Beginning((*best.words, word), states)))


def _either(one: tuple[float, float], other: tuple[float, float], step: float) -> tuple[float, float]:
    """Two ways to the same place, the second by a further step."""
    best, total = other[0] + step, other[1] + step
    top = max(one[1], total)
    summed = top if top == -math.inf else top + math.log(math.exp(one[1] - top) + math.exp(total - top))
    return max(one[0], best), summed


def tree(sequences: list[Found]) -> Graph:
    """An acceptor of some sequences, scored by their sums."""
    states: dict[tuple[int, ...], int] = {(): 0}
    arcs: list[tuple[int, int, int]] = []
    final = {}
    for words, _, total in sequences:
        for end in range(1, len(words) + 1):
            if words[:end] not in states:
                states[words[:end]] = len(states)
                arcs.append((states[words[: end - 1]], states[words[:end]], words[end - 1]))
        final[states[words]] = total
    src, dst, label = zip(*arcs, strict=True) if arcs else ((), (), ())
    ending = [final.get(state, -math.inf) for state in range(len(states))]
    return Graph.from_arcs(src, dst, label, label, [0.0] * len(src), ending)
