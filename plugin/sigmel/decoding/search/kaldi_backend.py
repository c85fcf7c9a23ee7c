"""The backend kaldi: Kaldi's decoders on the CPU, always available.

Povey et al., "Generating exact lattices in the WFST framework" (ICASSP 2012).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.build import DecodingGraph
from sigmel.decoding.graph.openfst import from_lattice, to_openfst, without_epsilons
from sigmel.decoding.search.hypothesis import NO_END, Hypothesis, empty, segments
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.search_width import NO_FRAME, Search, check_frames, check_utterance
from sigmel.errors import SigmelError

if TYPE_CHECKING:
    import kaldifst

# The least log-probability: Kaldi adds costs in float32, which must be finite. No path with this value is found.
FLOOR = -1e4


class KaldiDecoder:
    """Decodes utterances one by one.

    Args:
        graph: the graph to search.
        search: how widely to search.
    """

    def __init__(self, graph: DecodingGraph, search: Search | None = None) -> None:
        self.graph = graph
        self.search = search or Search()

    @cached_property
    def _fst(self) -> kaldifst.StdConstFst:
        """The graph for lattices."""
        return to_openfst(self.graph.graph)

    @cached_property
    def _with_end(self) -> kaldifst.StdConstFst:
        """The graph for best paths, with a further token, which is read after the last frame where a path may end.

        Kaldi's decoder prefers paths in a final state, even before the last frame. So every state is made final.
        """
        graph = self.graph.graph.with_end(len(self.graph.tokens) + 1)
        return to_openfst(replace(graph, final=np.zeros_like(graph.final)))

    def best(self, log_probs: NDArray[np.float32]) -> Hypothesis:
        """The best path of an utterance.

        Args:
            log_probs: (T, V) log-probabilities of the model's tokens.
        """
        stream = self.stream()
        stream.advance(log_probs)
        return stream.finish()

    def lattice(self, log_probs: NDArray[np.float32]) -> Lattice | Hypothesis:
        """The paths of an utterance within `lattice_beam` of the best, or an empty hypothesis with a reason.

        Args:
            log_probs: (T, V) log-probabilities of the model's tokens.
        """
        import kaldi_decoder

        if problem := check_utterance(log_probs, len(self.graph.tokens)):
            return empty(problem)
        options = kaldi_decoder.LatticeSimpleDecoderConfig(
            beam=self.search.beam, lattice_beam=self.search.lattice_beam
        )
        decoder = kaldi_decoder.LatticeSimpleDecoder(self._fst, options)
        decoder.decode(kaldi_decoder.DecodableCtc(_floored(log_probs)))
        complete = math.isfinite(decoder.final_relative_cost())
        found, raw = decoder.get_raw_lattice()
        if not found:
            return empty("no path is left")
        paths = without_epsilons(from_lattice(raw))
        return Lattice.canonical(self.graph, log_probs, paths, self.search.lattice_beam, complete)

    def stream(self) -> KaldiStream:
        """Decode an utterance piece by piece."""
        return KaldiStream(self)


class KaldiStream:
    """An utterance that is decoded piece by piece, with the result of decoding the whole.

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
        self._fst = decoder._with_end  # Kaldi's decoder does not keep it alive
        self._decoder = kaldi_decoder.FasterDecoder(decoder._with_end, options)
        self._decoder.init_decoding()
        self._problem = ""
        self._finished = False
        self.frames = 0

    def advance(self, log_probs: NDArray[np.float32]) -> None:
        """Decode further frames.

        Args:
            log_probs: (T, V) log-probabilities of the model's tokens.

        Raises:
            SigmelError: V is not the number of the graph's tokens, or the stream is finished.
        """
        if self._finished:
            raise SigmelError("the stream is finished; decode another utterance with another stream")
        self._problem = self._problem or check_frames(log_probs, len(self._graph.tokens))
        if self._problem or not len(log_probs):
            return
        end = np.full((len(log_probs), 1), FLOOR, np.float32)
        self._decode(np.concatenate([_floored(log_probs), end], axis=1))
        self.frames += len(log_probs)

    def partial(self) -> Hypothesis:
        """The best path so far, wherever it ends."""
        if self._problem or not self.frames:
            return empty(self._problem or NO_FRAME)
        return self._path()

    def finish(self) -> Hypothesis:
        """The best path that ends where the graph may end; if no such path is left, the best path."""
        if self.frames and not self._problem and not self._finished:
            # A path that may not end here reads another blank. Another token could write a word that was not said.
            end = np.full((1, len(self._graph.tokens) + 1), 2 * FLOOR, np.float32)
            end[:, self._graph.blank] = FLOOR
            end[:, -1] = 0.0
            self._decode(end)
        self._finished = True
        return self.partial()

    def _decode(self, log_probs: NDArray[np.float32]) -> None:
        import kaldi_decoder

        done = self._decoder.num_frames_decoded()
        self._decoder.advance_decoding(kaldi_decoder.DecodableCtc(np.ascontiguousarray(log_probs), offset=done))

    def _path(self) -> Hypothesis:
        import kaldifst

        found, path = self._decoder.get_best_path()
        if not found:
            return empty("no path is left")
        _, labels, words, weight = kaldifst.get_linear_symbol_sequence(path)
        model_score = -weight.value2
        complete = self._finished and labels[-1] == len(self._graph.tokens) + 1
        if self._finished and not complete:
            model_score -= FLOOR  # which every path has paid for not ending
        alignment = np.asarray(labels[: self.frames], np.int32) - 1
        spoken, tokens = segments(self._graph, alignment.tolist(), words)
        reason = NO_END if self._finished and not complete else ""
        return Hypothesis(spoken, tokens, alignment, model_score - weight.value1, -weight.value1, complete, reason)


def _floored(log_probs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Log-probabilities as Kaldi takes them: in one block of memory, and finite."""
    return np.ascontiguousarray(np.maximum(log_probs, FLOOR), np.float32)
