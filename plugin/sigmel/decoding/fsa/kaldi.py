"""The backend that is always there: Kaldi's decoders on the CPU.

Povey et al., "Generating exact lattices in the WFST framework" (ICASSP 2012).
"""

from __future__ import annotations

import math
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.fsa.build import DecodingGraph
from sigmel.decoding.fsa.graph import Graph
from sigmel.decoding.fsa.hypothesis import NO_END, Hypothesis, empty, segments
from sigmel.decoding.fsa.lattice import Lattice
from sigmel.decoding.fsa.openfst import to_openfst
from sigmel.decoding.fsa.search import Search, check_frames

if TYPE_CHECKING:
    import kaldifst

# Kaldi adds costs in float32 and takes no infinite one: what is this unlikely is in no path.
FLOOR = -1e4


class KaldiDecoder:
    """Decodes utterances one by one.

    Args:
        graph: what to decode with.
        search: how widely.
    """

    def __init__(self, graph: DecodingGraph, search: Search | None = None) -> None:
        self.graph = graph
        self.search = search or Search()
        self._fst = to_openfst(graph.graph)

    def best(self, log_probs: NDArray[np.float32]) -> Hypothesis:
        """The best path of an utterance.

        Args:
            log_probs: (T, V) log-probabilities of the model's tokens.
        """
        stream = self.stream()
        stream.advance(log_probs)
        return stream.best()

    def lattice(self, log_probs: NDArray[np.float32]) -> Lattice | Hypothesis:
        """All paths of an utterance within ``lattice_beam`` of the best one; or why there is none.

        Args:
            log_probs: (T, V) log-probabilities of the model's tokens.
        """
        import kaldi_decoder

        problem = check_frames(log_probs, len(self.graph.tokens)) or ("" if len(log_probs) else "there is no frame")
        if problem:
            return empty(problem)
        options = kaldi_decoder.LatticeSimpleDecoderConfig(
            beam=self.search.beam, lattice_beam=self.search.lattice_beam
        )
        decoder = kaldi_decoder.LatticeSimpleDecoder(self._fst, options)
        decoder.decode(kaldi_decoder.DecodableCtc(_costs(log_probs)))
        complete = math.isfinite(decoder.final_relative_cost())
        found, raw = decoder.get_raw_lattice()
        if not found:
            return empty("no path is left")
        return Lattice.canonical(self.graph, log_probs, _read(raw), self.search.lattice_beam, complete)

    def stream(self) -> KaldiStream:
        """Decode an utterance piece by piece."""
        return KaldiStream(self)


class KaldiStream:
    """An utterance that is decoded piece by piece; the pieces give what the whole gives.

    Attributes:
        frames: how many frames were decoded.
    """

    def __init__(self, decoder: KaldiDecoder) -> None:
        import kaldi_decoder

        search = decoder.search
        options = kaldi_decoder.FasterDecoderOptions(
            beam=search.beam, max_active=search.max_active, min_active=search.min_active
        )
        self._graph = decoder.graph
        self._decoder = kaldi_decoder.FasterDecoder(decoder._fst, options)
        self._decoder.init_decoding()
        self._problem = ""
        self.frames = 0

    def advance(self, log_probs: NDArray[np.float32]) -> None:
        """Decode further frames.

        Args:
            log_probs: (T, V) log-probabilities of the model's tokens.
        """
        import kaldi_decoder

        self._problem = self._problem or check_frames(log_probs, len(self._graph.tokens))
        if self._problem or not len(log_probs):
            return
        self._decoder.advance_decoding(kaldi_decoder.DecodableCtc(_costs(log_probs), offset=self.frames))
        self.frames += len(log_probs)

    def best(self, final: bool = True) -> Hypothesis:
        """The best path so far.

        Args:
            final: whether the utterance has ended, so that a path that ends where the graph may end is preferred.
        """
        import kaldifst

        if self._problem or not self.frames:
            return empty(self._problem or "there is no frame")
        complete = self._decoder.reached_final()
        found, path = self._decoder.get_best_path(use_final_probs=final and complete)
        if not found:
            return empty("no path is left")
        _, labels, words, weight = kaldifst.get_linear_symbol_sequence(path)
        alignment = np.asarray(labels, np.int32) - 1
        score = -(weight.value1 + weight.value2)
        spoken, tokens = segments(self._graph, alignment.tolist(), words)
        reason = "" if complete or not final else NO_END
        return Hypothesis(spoken, tokens, alignment, score, -weight.value1, complete, reason)


def _costs(log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities as Kaldi takes them."""
    return np.ascontiguousarray(np.maximum(log_probs, FLOOR), np.float32)


_WEIGHT = np.dtype([("graph", "<f4"), ("model", "<f4")])
_ARC = np.dtype([("label", "<i4"), ("aux", "<i4"), ("graph", "<f4"), ("model", "<f4"), ("dst", "<i4")])


def _read(raw: kaldifst.Lattice) -> Graph:
    """The paths of Kaldi's lattice with the scores of the graph, by way of OpenFst's format "vector"."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lattice.fst"
        raw.write(str(path))
        data = path.read_bytes()
    header = 4 + (4 + len("vector")) + (4 + len("lattice4"))
    _, _, _, start, num_states, _ = struct.unpack_from("<iiQqqq", data, header)
    at = header + struct.calcsize("<iiQqqq")
    final = np.empty(num_states, np.float32)
    count = np.empty(num_states, np.int64)
    pieces = []
    for state in range(num_states):
        graph, model, count[state] = struct.unpack_from("<ffq", data, at)
        final[state] = -graph if math.isfinite(graph) and math.isfinite(model) else -np.inf
        at += _WEIGHT.itemsize + 8
        pieces.append(data[at : at + _ARC.itemsize * int(count[state])])
        at += len(pieces[-1])
    arcs = np.frombuffer(b"".join(pieces), _ARC)
    number = np.arange(num_states)
    number[[0, start]] = start, 0
    src = np.repeat(number, count)
    return Graph.from_arcs(src, number[arcs["dst"]], arcs["label"], arcs["aux"], -arcs["graph"], final[number])
