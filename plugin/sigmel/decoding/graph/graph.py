"""Finite-state transducers as plain arrays, the one format that every builder makes and every backend reads.

Mohri, Pereira and Riley, "Weighted finite-state transducers in speech recognition" (Computer Speech & Language, 2002).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

EPSILON = 0
MAX_ARCS = 20_000_000  # of any graph, unless one asks for more; about 1 GB while it is made
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

    Scores are natural logarithms, added along a path; the greater, the better. An acceptor has ``aux`` equal to
    ``label``.

    Attributes:
        src: (A,) state that an arc leaves, in ascending order.
        dst: (A,) state that it enters.
        label: (A,) what it reads; 0 is nothing (epsilon). Token k of a model is k + 1, wherever its blank is.
        aux: (A,) what it writes, the number of a word; 0 is nothing.
        score: (A,) its score.
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
        """Make a graph of arcs in any order; those of a state are sorted by label.

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
        """The graph of one path, without scores."""
        states = np.arange(len(np.asarray(label)))
        final = np.append(np.full(len(states), -np.inf), 0.0)
        return cls.from_arcs(states, states + 1, label, aux, 0.0 * states, final)

    def with_arcs(
        self,
        src: ArrayLike,
        dst: ArrayLike,
        label: ArrayLike,
        aux: ArrayLike,
        score: ArrayLike,
        final: ArrayLike = (),
    ) -> Graph:
        """The graph with further arcs, and with as many further states as there are scores of ending in them."""
        columns = zip(ARRAYS, (src, dst, label, aux, score, final), strict=True)
        return Graph.from_arcs(*(np.concatenate([getattr(self, name), np.asarray(more)]) for name, more in columns))

    @property
    def num_states(self) -> int:
        """S."""
        return len(self.final)

    @property
    def num_arcs(self) -> int:
        """A."""
        return len(self.src)

    def arcs_of(self) -> Ints:
        """(S + 1,): the arcs of state s are those from the s-th number to the next."""
        return np.searchsorted(self.src, np.arange(self.num_states + 1)).astype(np.int32)

    def scaled(self, factor: float) -> Graph:
        """The same paths, with all scores multiplied."""
        final = self.final.copy()
        final[np.isfinite(final)] *= np.float32(factor)
        return replace(self, score=np.float32(factor) * self.score, final=final)

    def validate(self) -> None:
        """Raise a SigmelError that says what makes this no graph."""
        for name, kind in ARRAYS.items():
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != kind:
                raise SigmelError(f"graph: {name} is {array.dtype} of shape {array.shape}, not {np.dtype(kind)} (n,)")
            if name != "final" and len(array) != self.num_arcs:
                raise SigmelError(f"graph: {name} has {len(array)} entries, src has {self.num_arcs}")
        if not self.num_states:
            raise SigmelError("graph: it has no state")
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
            raise SigmelError("graph: it has no state to end in, so it reads nothing")

    def check_epsilons(self) -> None:
        """Raise a SigmelError if an arc that reads nothing writes, or if such arcs make a cycle."""
        silent = self.label == EPSILON
        if writing := int(np.sum(silent & (self.aux != EPSILON))):
            raise SigmelError(f"graph: {writing} arcs write, but read nothing")
        src, dst = self.src[silent], self.dst[silent]
        while len(src):  # whatever leaves a state to which no epsilon leads is in no cycle
            left = np.isin(src, dst)
            if left.all():
                raise SigmelError(f"graph: epsilons lead from state {src[0]} back to it")
            src, dst = src[left], dst[left]

    def save(self, path: Path) -> None:
        """Write the arrays to ``path`` (.npz)."""
        write_arrays(path, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: Path) -> Graph:
        """Read what `save` wrote.

        Raises:
            SigmelError: the file is no graph.
        """
        graph = cls(**read_arrays(path, ARRAYS))
        graph.validate()
        return graph

    def to_dot(self, labels: Sequence[str], words: Sequence[str]) -> str:
        """The graph in the language of Graphviz.

        Args:
            labels: the name of each label, of epsilon too.
            words: the name of each number that it writes, of epsilon too.
        """
        lines = ["digraph {", "  rankdir=LR; node [shape=circle]; 0 [penwidth=3];"]
        for state in np.flatnonzero(np.isfinite(self.final)):
            score = f"/{self.final[state]:.3g}" if self.final[state] else ""
            lines.append(f'  {state} [shape=doublecircle, label="{state}{score}"];')
        for src, dst, label, aux, score in zip(self.src, self.dst, self.label, self.aux, self.score, strict=True):
            name = f"{labels[label]}:{words[aux]}" + (f"/{score:.3g}" if score else "")
            lines.append(f'  {src} -> {dst} [label="{_quoted(name)}"];')
        return "\n".join([*lines, "}"]) + "\n"


def ranges(start: NDArray, count: NDArray) -> NDArray:
    """The numbers from each start on, so many of each, one after the other."""
    return np.arange(count.sum()) + np.repeat(start - np.cumsum(count) + count, count)


def write_arrays(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write named arrays to one file, which is complete or absent."""
    if Path(path).suffix != ".npz":
        raise SigmelError(f"{path}: a graph is kept in a file whose name ends in .npz")
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray]:
    """Read the named arrays of a file.

    Raises:
        SigmelError: it cannot be read, or lacks one.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # a foreign file fails in many ways
        lacks = f": it has no array {error}" if isinstance(error, KeyError) else ""
        raise SigmelError(f"{path}: no graph of sigmel's{lacks}; make one with `sigmel graph build`") from error


def _quoted(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
