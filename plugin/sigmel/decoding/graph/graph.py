"""Finite-state transducers as plain arrays, the one format that every builder makes and every backend reads.

Mohri, Pereira and Riley, "Weighted finite-state transducers in speech recognition" (Computer Speech & Language, 2002).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigmel.errors import SigmelError

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

EPSILON = 0
MAX_ARCS = 20_000_000  # the largest graph that is made by default; making it takes about 1 GB
ARRAYS: dict[str, Any] = {
    "src": np.int32,
    "dst": np.int32,
    "label": np.int32,
    "aux": np.int32,
    "score": np.float32,
    "final": np.float32,
}


@dataclass(frozen=True, eq=False)
class Graph:
    """A weighted transducer with A arcs and S states; state 0 is the start.

    Scores are natural logarithms and are added along a path; greater is better. An acceptor has `aux` equal to
    `label`.

    Attributes:
        src: (A,) state that an arc leaves, in ascending order.
        dst: (A,) state that an arc enters.
        label: (A,) label that an arc reads; 0 (epsilon) reads nothing. Token k of a model is label k + 1, the blank
            included.
        aux: (A,) number of the word that an arc writes; 0 writes nothing.
        score: (A,) score of an arc.
        final: (S,) score of ending in a state; -inf where a path may not end.
    """

    src: Ints
    dst: Ints
    label: Ints
    aux: Ints
    score: Floats
    final: Floats

    @classmethod
    def from_arcs(
        cls, src: ArrayLike, dst: ArrayLike, label: ArrayLike, aux: ArrayLike, score: ArrayLike, final: ArrayLike
    ) -> Graph:
        """Make a graph of arcs in any order; the arcs of each state are sorted by label.

        Raises:
            SigmelError: see `validate`.
        """
        found = [np.asarray(array) for array in (src, dst, label, aux, score)]
        order = np.lexsort((found[2], found[0])) if len({len(array) for array in found}) == 1 else slice(None)
        columns = [np.ascontiguousarray(array[order]) for array in found] + [np.asarray(final)]
        graph = cls(*(array.astype(kind, copy=False) for array, kind in zip(columns, ARRAYS.values(), strict=True)))
        graph.validate()
        return graph

    @classmethod
    def linear(cls, label: ArrayLike, aux: ArrayLike) -> Graph:
        """The graph of a single path, with all scores 0."""
        states = np.arange(len(np.asarray(label)))
        final = np.append(np.full(len(states), -np.inf), 0.0)
        return cls.from_arcs(states, states + 1, label, aux, 0.0 * states, final)

    def with_end(self, label: int) -> Graph:
        """The graph with a single end, a further state: arcs that read `label` enter it wherever a path could end."""
        ends = np.flatnonzero(np.isfinite(self.final))
        arcs = (ends, np.full(len(ends), self.num_states), np.full(len(ends), label), 0 * ends, self.final[ends])
        ours = (self.src, self.dst, self.label, self.aux, self.score)
        src, dst, labels, aux, score = map(np.concatenate, zip(ours, arcs, strict=True))
        return Graph.from_arcs(src, dst, labels, aux, score, np.append(np.full(self.num_states, -np.inf), 0.0))

    @property
    def num_states(self) -> int:
        """S, the number of states."""
        return len(self.final)

    @property
    def num_arcs(self) -> int:
        """A, the number of arcs."""
        return len(self.src)

    def arcs_of(self) -> Ints:
        """(S + 1,) where the arcs of each state begin; those of the last state end at the last entry."""
        return np.searchsorted(self.src, np.arange(self.num_states + 1)).astype(np.int32)

    def scaled(self, factor: float) -> Graph:
        """The graph with all scores multiplied by `factor`."""
        final = self.final.copy()
        final[np.isfinite(final)] *= np.float32(factor)
        return replace(self, score=np.float32(factor) * self.score, final=final)

    def validate(self) -> None:
        """Raise a SigmelError for arrays that are not a graph; the message names the array."""
        for name, kind in ARRAYS.items():
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != kind:
                raise SigmelError(f"graph: {name} is {array.dtype} of shape {array.shape}, not {np.dtype(kind)} (n,)")
            if name != "final" and len(array) != self.num_arcs:
                raise SigmelError(f"graph: {name} has {len(array)} entries, src has {self.num_arcs}")
        if not self.num_states:
            raise SigmelError("graph: there is no state")
        for name in ("src", "dst"):
            states = getattr(self, name)
            if len(states) and not 0 <= states.min() <= states.max() < self.num_states:
                raise SigmelError(f"graph: {name} names a state that is not among 0 to {self.num_states - 1}")
        if np.any(np.diff(self.src) < 0):
            raise SigmelError("graph: src is not in ascending order; Graph.from_arcs sorts")
        for name in ("label", "aux"):
            if np.any(getattr(self, name) < 0):
                raise SigmelError(f"graph: {name} has a negative number")
        if not np.all(np.isfinite(self.score)):
            raise SigmelError(f"graph: the score of arc {np.flatnonzero(~np.isfinite(self.score))[0]} is not finite")
        if np.any(np.isnan(self.final)) or np.any(self.final == np.inf):
            raise SigmelError("graph: the score of ending in a state is NaN or +inf")
        if not np.any(np.isfinite(self.final)):
            raise SigmelError("graph: there is no state to end in, so nothing can be read")

    def check_epsilons(self) -> None:
        """Raise a SigmelError if an epsilon arc writes a word, or if epsilon arcs form a cycle."""
        silent = self.label == EPSILON
        if writing := int(np.sum(silent & (self.aux != EPSILON))):
            raise SigmelError(f"graph: {writing} arcs write, but read nothing")
        src, dst = self.src[silent], self.dst[silent]
        while len(src):  # an arc from a state that no epsilon enters is not part of a cycle
            left = np.isin(src, dst)
            if left.all():
                raise SigmelError(f"graph: epsilons lead from state {src[0]} back to it")
            src, dst = src[left], dst[left]

    def to_dot(self, labels: Sequence[str], words: Sequence[str]) -> str:
        """The graph in the language of Graphviz.

        Args:
            labels: the name of each label, beginning with that of epsilon.
            words: the name of each word, beginning with that of epsilon.
        """
        lines = ["digraph {", "  rankdir=LR; node [shape=circle]; 0 [penwidth=3];"]
        for state in np.flatnonzero(np.isfinite(self.final)):
            score = f"/{self.final[state]:.3g}" if self.final[state] else ""
            lines.append(f'  {state} [shape=doublecircle, label="{state}{score}"];')
        for src, dst, label, aux, score in zip(self.src, self.dst, self.label, self.aux, self.score, strict=True):
            name = f"{labels[label]}:{words[aux]}" + (f"/{score:.3g}" if score else "")
            lines.append(f'  {src} -> {dst} [label="{_quoted(name)}"];')
        return "\n".join([*lines, "}"]) + "\n"


class GraphBuilder:
    """A graph that is made arc by arc; state 0 is the start.

    Attributes:
        final: score of ending in each state; -inf for a new state.
    """

    def __init__(self) -> None:
        self.final = [-math.inf]
        self._arcs: list[tuple[int, int, int, int, float]] = []

    def add_state(self) -> int:
        """Add a state; return its number."""
        self.final.append(-math.inf)
        return len(self.final) - 1

    def add_arc(self, src: int, dst: int, label: int, aux: int | None = None, score: float = 0.0) -> None:
        """Add an arc, which without `aux` writes its label."""
        self._arcs.append((src, dst, label, label if aux is None else aux, score))

    def add_path(
        self,
        src: int,
        dst: int,
        labels: Sequence[int],
        aux: Sequence[int] | None = None,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Add a path through new states, which without `aux` writes its labels and without `scores` scores 0."""
        states = [src, *(self.add_state() for _ in labels[1:]), dst]
        self._arcs += zip(states, states[1:], labels, aux or labels, scores or repeat(0.0), strict=False)

    def graph(self) -> Graph:
        """The graph of all arcs."""
        src, dst, label, aux, score = zip(*self._arcs, strict=True) if self._arcs else ((),) * 5
        return Graph.from_arcs(src, dst, label, aux, score, self.final)


def ranges(start: NDArray, count: NDArray) -> NDArray:
    """Joined ranges: `start[i]`, `start[i] + 1`, ... with `count[i]` numbers, for each i."""
    return np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)


def check_size(step: str, arcs: int, max_arcs: int, advice: str) -> None:
    """Raise a SigmelError if a step would make more than `max_arcs` arcs."""
    if arcs > max_arcs:
        raise SigmelError(f"{step} would make up to {arcs:,} arcs, more than {max_arcs:,}; {advice}")


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
