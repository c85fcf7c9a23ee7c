"""OpenFst's operations on graphs, by kaldifst, and Kaldi's lattices as graphs.

kaldifst takes and gives whole transducers as files only. OpenFst's binary formats are a header and arrays, so they are
made and read without a loop over arcs. OpenFst's weights are costs, the negatives of our scores.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sigmel.decoding.graph.graph import EPSILON, MAX_ARCS, Graph, check_size
from sigmel.errors import SigmelError

if TYPE_CHECKING:
    import kaldifst

MOST_STATES = 2_000_000  # of a small graph that is made deterministic; a larger one may grow fourfold

_MAGIC = 2125659606
_VERSION = 2
_EXPANDED = 1  # the only property that holds for every file
# Headers: a magic number, the length and name of the format, those of the arcs, version, flags, properties, start, and
# the numbers of states and of arcs.
_CONST, _VECTOR = struct.Struct("<ii5si8siiQqqq"), struct.Struct("<ii6si8siiQqqq")
_STATE = np.dtype([("final", "<f4"), ("pos", "<u4"), ("arcs", "<u4"), ("epsilons_in", "<u4"), ("epsilons_out", "<u4")])
_ARC = np.dtype([("label", "<i4"), ("aux", "<i4"), ("cost", "<f4"), ("dst", "<i4")])
_LATTICE_STATE = struct.Struct("<ffq")  # cost of ending by the graph and by the model, number of arcs
_LATTICE_ARC = np.dtype([("label", "<i4"), ("aux", "<i4"), ("graph", "<f4"), ("model", "<f4"), ("dst", "<i4")])


def to_openfst(graph: Graph) -> kaldifst.StdConstFst:
    """The graph as an immutable transducer, which decoders take; `kaldifst.StdVectorFst(...)` makes it mutable."""
    import kaldifst

    starts = graph.arcs_of()
    states = np.zeros(graph.num_states, _STATE)
    states["final"], states["pos"], states["arcs"] = -graph.final, starts[:-1], np.diff(starts)
    for name, labels in (("epsilons_in", graph.label), ("epsilons_out", graph.aux)):
        states[name] = np.bincount(graph.src[labels == 0], minlength=graph.num_states)
    arcs = np.empty(graph.num_arcs, _ARC)
    arcs["label"], arcs["aux"], arcs["cost"], arcs["dst"] = graph.label, graph.aux, -graph.score, graph.dst
    sizes = (graph.num_states, graph.num_arcs)
    header = _CONST.pack(_MAGIC, 5, b"const", 8, b"standard", _VERSION, 0, _EXPANDED, 0, *sizes)
    with _file() as path:
        path.write_bytes(b"".join((header, states.tobytes(), arcs.tobytes())))
        return kaldifst.StdConstFst.read(str(path))


def from_openfst(fst: kaldifst.StdFst) -> Graph:
    """The graph of a transducer; its start becomes state 0."""
    import kaldifst

    data = _contents(kaldifst.StdConstFst(fst))
    *_, start, num_states, num_arcs = _CONST.unpack_from(data)
    states = np.frombuffer(data, _STATE, num_states, _CONST.size)
    arcs = np.frombuffer(data, _ARC, num_arcs, _CONST.size + states.nbytes)
    if start < 0:  # nothing is left
        return Graph.from_arcs([], [], [], [], [], [-np.inf])
    return _graph(start, states["arcs"], arcs, -arcs["cost"], -states["final"])


def from_lattice(lattice: kaldifst.Lattice) -> Graph:
    """The paths of a lattice of Kaldi's, with the scores of the graph alone; its start becomes state 0."""
    data, at = _contents(lattice), _VECTOR.size  # in the format "vector", each state is followed by its arcs
    *_, start, num_states, _ = _VECTOR.unpack_from(data)
    final = np.empty(num_states, np.float32)
    count = np.empty(num_states, np.int64)
    pieces = []
    for state in range(num_states):
        graph, model, count[state] = _LATTICE_STATE.unpack_from(data, at)
        final[state] = -graph if math.isfinite(graph) and math.isfinite(model) else -np.inf
        at += _LATTICE_STATE.size
        pieces.append(data[at : at + _LATTICE_ARC.itemsize * int(count[state])])
        at += len(pieces[-1])
    arcs = np.frombuffer(b"".join(pieces), _LATTICE_ARC)
    return _graph(start, count, arcs, -arcs["graph"], final)


@contextmanager
def _file() -> Iterator[Path]:
    """The path of a file that kaldifst and we read and write: in memory on Linux, elsewhere in a temporary folder."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("graph"), "rb") as file:
            yield Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "graph.fst"


def _contents(fst: kaldifst.StdConstFst | kaldifst.Lattice) -> bytes:
    """The file of a transducer."""
    with _file() as path:
        fst.write(str(path))
        return path.read_bytes()


def _graph(start: int, count: np.ndarray, arcs: np.ndarray, score: np.ndarray, final: np.ndarray) -> Graph:
    """The graph of states with `count` arcs each, in which `start` and state 0 have exchanged their numbers."""
    number = np.arange(len(count))
    number[[0, start]] = start, 0
    src, dst = np.repeat(number, count), number[arcs["dst"]]
    return Graph.from_arcs(src, dst, arcs["label"], arcs["aux"], score, final[number])


def reader(graph: Graph) -> kaldifst.StdVectorFst:
    """A graph prepared for `composed`, for graphs that read the output of many others."""
    import kaldifst

    fst = kaldifst.StdVectorFst(to_openfst(graph))
    kaldifst.arcsort(fst, "ilabel")
    return fst


def composed(first: Graph, second: Graph | kaldifst.StdVectorFst) -> Graph:
    """The composition of two graphs: `second` reads what `first` writes.

    Only arcs on a path from the start to an end are kept.

    Raises:
        SigmelError: no path is left.
    """
    import kaldifst

    left = kaldifst.StdVectorFst(to_openfst(first))
    kaldifst.arcsort(left, "olabel")
    return from_openfst(kaldifst.compose(left, reader(second) if isinstance(second, Graph) else second))


def determinized(graph: Graph) -> Graph:
    """An equal graph without epsilons in which no two arcs of a state read the same label, as small as possible.

    Scores are rounded to 1/1024.

    Raises:
        SigmelError: the graph would grow without limit, as where a label sequence has infinitely many scores.
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
    """An equal graph without epsilon arcs.

    A state gets the arcs of all states that epsilons lead to from it. So where a language model backs off, every
    history has an arc for every first token. Of arcs that differ in their scores only, the best is kept.

    Args:
        graph: the graph.
        max_arcs: how many arcs the result may have.

    Raises:
        SigmelError: the result may have more arcs than `max_arcs`, an epsilon arc writes, or epsilons form a cycle.
    """
    import kaldifst

    silent = graph.label == EPSILON
    if not silent.any():
        return graph
    graph.check_epsilons()
    # For each state, the arcs at the ends of chains of no epsilon from it, of one, of two, and so on.
    onward = np.bincount(graph.src[~silent], minlength=graph.num_states)
    arcs = 0
    while onward.any():
        arcs += int(onward.sum())
        advice = "prune the language model, or use the backend kaldi, which takes epsilons"
        check_size("removing epsilons", arcs, max_arcs, advice)
        onward = np.bincount(graph.src[silent], onward[graph.dst[silent]], minlength=graph.num_states)
    fst = kaldifst.StdVectorFst(to_openfst(graph))
    kaldifst.rmepsilon(fst)
    return from_openfst(fst)
