"""Decoding with a graph: equal input and equal results for every backend."""

from __future__ import annotations

import argparse
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from sigmel.decoding.graph.arpa_ngrams import NGramModel, read_arpa
from sigmel.decoding.graph.build import DecodingGraph
from sigmel.decoding.search import k2_backend
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.kaldi_backend import KaldiDecoder, KaldiStream
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.rescoring import LatticeRescorer
from sigmel.decoding.search.search_width import Search, utterances
from sigmel.errors import SigmelError

BACKENDS = ("auto", "kaldi", "k2")
OPTIONS = ("graph", "backend", "beam", "lattice_beam", "rescore", "rescore_scale")


class GraphDecoder:
    """Decodes batches of log-probabilities with a graph.

    Args:
        graph: the graph, or its file.
        backend: `kaldi` decodes on the CPU, one utterance after the other; `k2` decodes whole batches, also on a GPU;
            `auto` takes k2 for tensors on a GPU (kaldi, with a warning, if k2 cannot be imported), and otherwise
            kaldi, which is faster on a CPU.
        search: how widely to search.
        rescore: an n-gram model, or its file, whose scores replace those of the graph in every lattice.
        rescore_scale: factor of the scores of `rescore`.

    Raises:
        SigmelError: the backend is unknown, `rescore` lacks words of the graph, or k2 is asked for and cannot be used;
            then the message names the wheel to install.
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
        self._k2: dict[torch.device, k2_backend.K2Decoder] = {}

    def decode(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Hypothesis]:
        """The best path of each utterance.

        Args:
            log_probs: (B, T, V) log-probabilities of the model's tokens.
            lengths: (B,) frames of each utterance.

        Raises:
            SigmelError: V is not the number of the graph's tokens, or a length is not between 0 and T.
        """
        decoder = self._decoder(log_probs, lengths)
        if isinstance(decoder, KaldiDecoder) and self._rescorer is None:  # which needs no lattice
            return [decoder.best(frames) for frames in utterances(log_probs, lengths)]
        found = self.lattices(log_probs, lengths)
        return [lattice if isinstance(lattice, Hypothesis) else lattice.best() for lattice in found]

    def lattices(self, log_probs: torch.Tensor, lengths: torch.Tensor) -> list[Lattice | Hypothesis]:
        """The lattice of each utterance, or an empty hypothesis with a reason; see `decode`."""
        decoder = self._decoder(log_probs, lengths)
        if isinstance(decoder, k2_backend.K2Decoder):
            found = decoder.lattices(log_probs, lengths)
        else:
            found = [decoder.lattice(frames) for frames in utterances(log_probs, lengths)]
        if (rescorer := self._rescorer) is None:
            return found
        beam = self.search.lattice_beam
        return [lattice if isinstance(lattice, Hypothesis) else rescorer(lattice, beam) for lattice in found]

    def nbest(self, log_probs: torch.Tensor, lengths: torch.Tensor, n: int) -> list[list[Hypothesis]]:
        """The best n different sequences of words of each utterance; see `decode` and `Lattice.nbest`."""
        found = self.lattices(log_probs, lengths)
        return [[lattice] if isinstance(lattice, Hypothesis) else lattice.nbest(n) for lattice in found]

    def stream(self) -> KaldiStream:
        """Decode an utterance piece by piece, on the CPU."""
        return self._kaldi.stream()

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
            return self._kaldi
        if device not in self._k2:
            self._k2[device] = k2_backend.K2Decoder(self.graph, self.search, device)
        return self._k2[device]

    @cached_property
    def _kaldi(self) -> KaldiDecoder:
        return KaldiDecoder(self.graph, self.search)


def add_decoding_options(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Add the options of a `GraphDecoder` to a parser or to a group of it; names may have _ for -, as in ESPnet."""
    parser.add_argument(
        "--graph", type=Path, required=required, help="decode with this graph, see `sigmel graph build`"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="search library (default: %(default)s)")
    parser.add_argument("--beam", type=float, default=Search.beam, help="of the search (default: %(default)s)")
    parser.add_argument("--rescore", type=Path, help="n-gram model (.arpa, .arpa.gz) that rescores every lattice")
    for name, default, text in (
        ("lattice-beam", Search.lattice_beam, "of lattices"),
        ("rescore-scale", 1.0, "factor of the scores of --rescore"),
    ):
        names = (f"--{name}", f"--{name.replace('-', '_')}")
        parser.add_argument(*names, type=float, default=default, help=f"{text} (default: %(default)s)")


def decoding_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options other than `--graph`, as arguments of `GraphDecoder` and of `sigmel.hosts.nemo.use_graph`."""
    return {
        "backend": args.backend,
        "search": Search(beam=args.beam, lattice_beam=args.lattice_beam),
        "rescore": args.rescore,
        "rescore_scale": args.rescore_scale,
    }
