"""Decode with a graph: the same arrays in and the same results out, whatever the backend."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch

from sigmel.decoding.graph.build import DecodingGraph
from sigmel.decoding.graph.ngrams import NGramModel, read_arpa
from sigmel.decoding.search import k2_backend
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.kaldi_backend import KaldiDecoder, KaldiStream
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.rescoring import LatticeRescorer
from sigmel.decoding.search.search import Search
from sigmel.errors import SigmelError

BACKENDS = ("auto", "kaldi", "k2")
OPTIONS = ("graph", "backend", "beam", "lattice_beam", "rescore", "rescore_scale")


class GraphDecoder:
    """Decodes batches of log-probabilities with a graph.

    Args:
        graph: the graph, or its file.
        backend: ``kaldi`` decodes on the CPU, one utterance after the other; ``k2`` whole batches, on the GPU, too;
            ``auto`` takes k2 for what lies on a GPU if it can be imported, with a warning if it cannot, and otherwise
            kaldi, which is faster on a CPU.
        search: how widely to search.
        rescore: an n-gram model, or its file, whose scores take the place of the graph's in every lattice; decoding
            goes by way of lattices then, too.
        rescore_scale: what these scores are multiplied with.

    Raises:
        SigmelError: an unknown backend; a model to rescore with that lacks words of the graph; k2 is asked for and
            cannot be used: the message names the wheel to install.
    """

    def __init__(
        self,
        graph: DecodingGraph | Path,
        backend: str = "auto",
        search: Search | None = None,
        rescore: NGramModel | Path | None = None,
        rescore_scale: float = 1.0,
    ) -> None:
        if backend not in BACKENDS:
            raise SigmelError(f"backend {backend!r} is unknown; one of {', '.join(BACKENDS)}")
        if backend == "k2" and (problem := k2_backend.problem()):
            raise SigmelError(problem)
        self.graph = graph if isinstance(graph, DecodingGraph) else DecodingGraph.load(graph)
        self.search = search or Search()
        self._rescorer = None
        if rescore is not None:
            model = rescore if isinstance(rescore, NGramModel) else read_arpa(rescore)
            self._rescorer = LatticeRescorer(model, self.graph.lexicon.words, rescore_scale)
        self.backend = backend
        self._decoders: dict[str, KaldiDecoder | k2_backend.K2Decoder] = {}

    def decode(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Hypothesis]:
        """The best path of each utterance.

        Args:
            log_probs: (B, T, V) log-probabilities of the model's tokens.
            lengths: (B,) frames of each.

        Raises:
            SigmelError: V is not the number of the graph's tokens, or a length is not between 0 and T.
        """
        decoder = self._decoder(log_probs, lengths)
        if isinstance(decoder, KaldiDecoder) and self._rescorer is None:  # which finds it without a lattice
            return [decoder.best(one) for one in _utterances(log_probs, lengths)]
        return [one if isinstance(one, Hypothesis) else one.best() for one in self.lattices(log_probs, lengths)]

    def lattices(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Lattice | Hypothesis]:
        """The lattice of each utterance, or an empty hypothesis that says why there is none; see `decode`."""
        decoder = self._decoder(log_probs, lengths)
        if isinstance(decoder, k2_backend.K2Decoder):
            found = decoder.lattices(log_probs, lengths)
        else:
            found = [decoder.lattice(one) for one in _utterances(log_probs, lengths)]
        if self._rescorer is None:
            return found
        beam = self.search.lattice_beam
        return [one if isinstance(one, Hypothesis) else self._rescorer(one, beam) for one in found]

    def nbest(self, log_probs: torch.Tensor, lengths: torch.Tensor, n: int) -> list[list[Hypothesis]]:
        """The best n different sequences of words of each utterance; see `decode` and `Lattice.nbest`."""
        found = self.lattices(log_probs, lengths)
        return [[one] if isinstance(one, Hypothesis) else one.nbest(n) for one in found]

    def stream(self) -> KaldiStream:
        """Decode an utterance piece by piece, on the CPU."""
        return self._kaldi().stream()

    def _decoder(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> KaldiDecoder | k2_backend.K2Decoder:
        if log_probs.dim() != 3 or lengths.shape != log_probs.shape[:1]:
            shapes = f"{tuple(log_probs.shape)} and lengths {tuple(lengths.shape)}"
            raise SigmelError(f"log-probabilities {shapes} are not (B, T, V) and (B,)")
        if len(lengths) and not 0 <= int(lengths.min()) <= int(lengths.max()) <= log_probs.shape[1]:
            raise SigmelError(f"lengths {lengths.tolist()}: not between 0 and {log_probs.shape[1]} frames")
        backend, device = self.backend, log_probs.device
        if backend == "auto":
            backend = "k2" if device.type == "cuda" else "kaldi"
            if backend == "k2" and (problem := k2_backend.problem()):
                warnings.warn(f"decoding on the CPU: {problem}", stacklevel=3)
                self.backend = backend = "kaldi"
        if backend == "kaldi":
            return self._kaldi()
        decoder = self._decoders.get(str(device))
        if decoder is None:
            decoder = self._decoders[str(device)] = k2_backend.K2Decoder(self.graph, self.search, device)
        return decoder

    def _kaldi(self) -> KaldiDecoder:
        decoder = self._decoders.get("kaldi")
        if not isinstance(decoder, KaldiDecoder):
            decoder = self._decoders["kaldi"] = KaldiDecoder(self.graph, self.search)
        return decoder


def _utterances(log_probs: torch.Tensor, lengths: torch.Tensor) -> list:
    """The frames of each utterance as an array."""
    arrays = log_probs.detach().float().cpu().numpy()
    return [one[:length] for one, length in zip(arrays, lengths.tolist(), strict=True)]


def add_decoding_options(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Let a command's parser, or a group of it, take them; words may be joined by - or by _, as ESPnet does."""
    parser.add_argument(
        "--graph", type=Path, required=required, help="decode with this graph, see `sigmel graph build`"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what decodes (default: %(default)s)")
    parser.add_argument("--beam", type=float, default=Search.beam, help="of the search (default: %(default)s)")
    parser.add_argument(
        "--lattice-beam", "--lattice_beam", type=float, default=Search.lattice_beam, help="(default: %(default)s)"
    )
    parser.add_argument("--rescore", type=Path, help="n-gram model (.arpa, .arpa.gz) that rescores every lattice")
    parser.add_argument(
        "--rescore-scale", "--rescore_scale", type=float, default=1.0, help="multiplies its scores (%(default)s)"
    )


def decoding_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What they say, but for the graph itself: options of `GraphDecoder`, and of `sigmel.hosts.nemo.use_graph`."""
    return {
        "backend": arguments.backend,
        "search": Search(beam=arguments.beam, lattice_beam=arguments.lattice_beam),
        "rescore": arguments.rescore,
        "rescore_scale": arguments.rescore_scale,
    }
