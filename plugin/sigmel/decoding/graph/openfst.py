"""Graphs for OpenFst and back, by way of its binary files: array to array, with no loop over arcs.

OpenFst's "const" format is a header, then one record a state, then one record an arc. Its weights are costs: the
negatives of our scores.
"""

from __future__ import annotations

import math
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sigmel.decoding.graph.graph import EPSILON, MAX_ARCS, Graph, ranges
from sigmel.errors import SigmelError

if TYPE_CHECKING:
    import kaldifst

MOST_STATES = 2_000_000  # that a small graph may have when it is made deterministic

_MAGIC = 2125659606
_VERSION = 2
_EXPANDED = 1  # the one property that is true of every file
_STATE = np.dtype([("final", "<f4"), ("pos", "<u4"), ("arcs", "<u4"), ("epsilons_in", "<u4"), ("epsilons_out", "<u4")])
_ARC = np.dtype([("label", "<i4"), ("aux", "<i4"), ("cost", "<f4"), ("dst", "<i4")])
_LATTICE_ARC = np.dtype([("label", "<i4"), ("aux", "<i4"), ("graph", "<f4"), ("model", "<f4"), ("dst", "<i4")])


def to_openfst(graph: Graph) -> kaldifst.StdConstFst:
    """The graph as an immutable transducer, which decoders take; ``kaldifst.StdVectorFst(...)`` makes it mutable."""
    import kaldifst

    starts = graph.arcs_of()
    states = np.zeros(graph.num_states, _STATE)
    states["final"], states["pos"], states["arcs"] = -graph.final, starts[:-1], np.diff(starts)
    for name, labels in (("epsilons_in", graph.label), ("epsilons_out", graph.aux)):
        states[name] = np.bincount(graph.src[labels == 0], minlength=graph.num_states)
    arcs = np.empty(graph.num_arcs, _ARC)
    arcs["label"], arcs["aux"], arcs["cost"], arcs["dst"] = graph.label, graph.aux, -graph.score, graph.dst
    header = struct.pack("<i", _MAGIC) + _string("const") + _string("standard")
    header += struct.pack("<iiQqqq", _VERSION, 0, _EXPANDED, 0, graph.num_states, graph.num_arcs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.fst"
        path.write_bytes(b"".join((header, states.tobytes(), arcs.tobytes())))
        return kaldifst.StdConstFst.read(str(path))


def from_openfst(fst: kaldifst.StdFst) -> Graph:
    """The graph of a transducer; its start becomes state 0."""
    import kaldifst

    data, at, start, num_states, num_arcs = _contents(kaldifst.StdConstFst(fst))
    states = np.frombuffer(data, _STATE, num_states, at)
    arcs = np.frombuffer(data, _ARC, num_arcs, at + states.nbytes)
    if start < 0:  # nothing is left
        return Graph.from_arcs([], [], [], [], [], [-np.inf])
    number = _start_first(start, num_states)
    src, dst = np.repeat(number, states["arcs"]), number[arcs["dst"]]
    return Graph.from_arcs(src, dst, arcs["label"], arcs["aux"], -arcs["cost"], -states["final"][number])


def from_lattice(lattice: kaldifst.Lattice) -> Graph:
    """The paths of a lattice of Kaldi's, with the scores of the graph alone; its start becomes state 0.

    Its format is "vector": the arcs of each state follow it.
    """
    data, at, start, num_states, _ = _contents(lattice)
    final = np.empty(num_states, np.float32)
    count = np.empty(num_states, np.int64)
    pieces = []
    for state in range(num_states):
        graph, model, count[state] = struct.unpack_from("<ffq", data, at)
        final[state] = -graph if math.isfinite(graph) and math.isfinite(model) else -np.inf
        at += struct.calcsize("<ffq")
        pieces.append(data[at : at + _LATTICE_ARC.itemsize * int(count[state])])
        at += len(pieces[-1])
    arcs = np.frombuffer(b"".join(pieces), _LATTICE_ARC)
    number = _start_first(start, num_states)
    src, dst = np.repeat(number, count), number[arcs["dst"]]
    return Graph.from_arcs(src, dst, arcs["label"], arcs["aux"], -arcs["graph"], final[number])


def _contents(fst: kaldifst.StdConstFst | kaldifst.Lattice) -> tuple[bytes, int, int, int, int]:
    """The file of a transducer, where its header ends, its start, and how many states and arcs it has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.fst"
        fst.write(str(path))
        data = path.read_bytes()
    at = 4
    for _ in range(2):  # the names of the format and of the arcs
        (length,) = struct.unpack_from("<i", data, at)
        at += 4 + length
    _, _, _, start, num_states, num_arcs = struct.unpack_from("<iiQqqq", data, at)
    return data, at + struct.calcsize("<iiQqqq"), start, num_states, num_arcs


def _start_first(start: int, num_states: int) -> np.ndarray:
    """The number of each state, where the start and state 0 have exchanged theirs."""
    number = np.arange(num_states)
    number[[0, start]] = start, 0
    return number


def _string(text: str) -> bytes:
    return struct.pack("<i", len(text)) + text.encode()


def reader(graph: Graph) -> kaldifst.StdVectorFst:
    """A graph that is to read what many others write, see `composed`."""
    import kaldifst

    fst = kaldifst.StdVectorFst(to_openfst(graph))
    kaldifst.arcsort(fst, "ilabel")
    return fst


def composed(first: Graph, second: Graph | kaldifst.StdVectorFst) -> Graph:
    """What ``first`` writes, read by ``second``; only arcs on a path from the start to an end are kept.

    Raises:
        SigmelError: no path is left.
    """
    import kaldifst

    left = kaldifst.StdVectorFst(to_openfst(first))
    kaldifst.arcsort(left, "olabel")
    return from_openfst(kaldifst.compose(left, reader(second) if isinstance(second, Graph) else second))


def determinized(graph: Graph) -> Graph:
    """An equal graph without epsilons in which no two arcs of a state read the same, as small as that allows.

    Scores are rounded to 1/1024.

    Raises:
        SigmelError: it grows and grows, as it does where what is read can be weighed in infinitely many ways.
    """
    import kaldifst

    max_states = max(MOST_STATES, 4 * graph.num_states)
    fst = kaldifst.StdVectorFst(to_openfst(graph))
    if kaldifst.determinize_star(fst, max_states=max_states):
        raise SigmelError(
            f"a graph of {graph.num_states:,} states cannot be made deterministic with {max_states:,}; say the "
            "same words in one way only, above all where they repeat with weights"
        )
    kaldifst.minimize_encoded(fst)
    return from_openfst(fst)


def without_epsilons(graph: Graph, max_arcs: int = MAX_ARCS) -> Graph:
    """An equal graph without the arcs that neither read nor write, nor those that lead nowhere.

    Every state then has the arcs of all states that its epsilons lead to: where a language model backs off, every
    history has an arc for every first token. Of several ways to the same arc the best stays.

    Args:
        graph: the graph.
        max_arcs: how many arcs the result may have.

    Raises:
        SigmelError: it may have more.
    """
    import kaldifst

    if not np.any(graph.label == EPSILON):
        return graph
    if (arcs := _arcs_without_epsilons(graph)) > max_arcs:
        raise SigmelError(
            f"removing epsilons would make up to {arcs:,} arcs, more than {max_arcs:,}; prune the language model, or "
            "use the backend kaldi, which takes them"
        )
    fst = kaldifst.StdVectorFst(to_openfst(graph))
    kaldifst.rmepsilon(fst)
    return from_openfst(fst)


def _arcs_without_epsilons(graph: Graph) -> int:
    """How many arcs the removal of epsilons makes at most."""
    silent = graph.label == EPSILON
    onward = np.bincount(graph.src[~silent], minlength=graph.num_states)
    total = int(onward.sum())
    src, dst = graph.src[silent], graph.dst[silent]
    starts = np.searchsorted(src, np.arange(graph.num_states + 1))
    ends, seen = dst, 0
    while len(ends) and seen < graph.num_states:  # one epsilon further at a time; a cycle ends with the second
        total += int(onward[ends].sum())
        count = np.diff(starts)[ends]
        ends = dst[ranges(starts[ends], count)]
        seen += 1
        if total > 100 * MAX_ARCS:
            break
    return total


def shortest_paths(graph: Graph, n: int) -> list[tuple[list[int], list[int], float]]:
    """The n best paths, best first: what each reads, what it writes, both without epsilons, and its score.

    Raises:
        SigmelError: there is no path.
    """
    import kaldifst

    found = from_openfst(kaldifst.shortest_path(to_openfst(graph), n=n))
    starts = found.arcs_of()
    paths = []
    for arc in range(starts[1]) if np.isneginf(found.final[0]) else [None]:
        labels, words, score, state = [], [], 0.0, 0
        while arc is not None:  # from the second state on, a path has no fork
            labels.append(int(found.label[arc]))
            words.append(int(found.aux[arc]))
            score += float(found.score[arc])
            state = found.dst[arc]
            arc = starts[state] if starts[state] < starts[state + 1] else None
        paths.append(([x for x in labels if x], [x for x in words if x], score + float(found.final[state])))
    return sorted(paths, key=lambda path: -path[2])
