"""Graph decoding in NeMo's CTC models: after ``use_graph(model, "HLG.npz")`` all is as ever.

``model.transcribe()``, with timestamps, too, validation, and saving and restoring follow the graph: a ``.nemo`` file
carries it and names the class below that knows what to do with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE
from nemo.collections.asr.parts.submodules.ctc_decoding import CTCBPEDecoding, CTCDecoding
from nemo.collections.asr.parts.utils.rnnt_utils import Hypothesis
from omegaconf import DictConfig, OmegaConf, open_dict

from sigmel.decoding.fsa import DecodingGraph, GraphDecoder, Search
from sigmel.errors import SigmelError


class GraphInfer:
    """What NeMo calls an inference strategy, by a graph; it gives an alignment, which NeMo's decoding collapses.

    Args:
        decoder: decodes with the graph.
    """

    override_fold_consecutive_value = True

    def __init__(self, decoder: GraphDecoder) -> None:
        self.decoder = decoder

    def __call__(self, decoder_output: torch.Tensor, decoder_lengths: torch.Tensor) -> tuple[list[Hypothesis]]:
        """The best path of each utterance.

        Args:
            decoder_output: (B, T, V) log-probabilities.
            decoder_lengths: (B,) frames of each.
        """
        found = []
        for path in self.decoder.decode(decoder_output, decoder_lengths):
            hypothesis = Hypothesis(path.score, torch.from_numpy(path.alignment).long(), length=len(path.alignment))
            hypothesis.path = path
            found.append(hypothesis)
        return (found,)


class _FollowsGraph:
    """What NeMo's decoding classes do otherwise where they follow a graph: the text is that of its words."""

    def __init__(self, decoder: GraphDecoder, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoding = GraphInfer(decoder)

    def decode_hypothesis(self, hypotheses_list: list[Hypothesis], fold_consecutive: bool) -> list[Hypothesis]:
        """See NeMo."""
        found = super().decode_hypothesis(hypotheses_list, fold_consecutive)  # type: ignore[misc]
        if not self.compute_timestamps:  # type: ignore[attr-defined]
            for one in found:
                self._write(one)
        return found

    def compute_ctc_timestamps(self, hypothesis: Hypothesis, timestamp_type: str = "all") -> Hypothesis:
        """See NeMo."""
        found = super().compute_ctc_timestamps(hypothesis, timestamp_type)  # type: ignore[misc]
        self._write(found)
        if timestamp_type in ("word", "all") and not self.decoding.decoder.graph.writes_tokens:
            found.timestamp["word"] = [
                {"word": word.name, "start_offset": word.start, "end_offset": word.end}
                for word in hypothesis.path.words
            ]
        return found

    def _write(self, hypothesis: Hypothesis) -> None:
        if not self.decoding.decoder.graph.writes_tokens:
            hypothesis.text = hypothesis.path.text


class GraphCTCBPEDecoding(_FollowsGraph, CTCBPEDecoding):
    """NeMo's decoding of subwords, by a graph."""


class GraphCTCDecoding(_FollowsGraph, CTCDecoding):
    """NeMo's decoding of characters, by a graph."""


class _GraphModel:
    """What NeMo's models do otherwise where ``graph_decoding`` stands in their configuration."""

    cfg: DictConfig

    def __init__(self, cfg: DictConfig, trainer: Any = None) -> None:
        super().__init__(cfg=cfg, trainer=trainer)  # type: ignore[call-arg]
        self._follow()

    def change_decoding_strategy(self, *args: Any, **options: Any) -> None:
        """See NeMo, which calls it for timestamps, too; the graph stays, see `use_graph`."""
        super().change_decoding_strategy(*args, **options)  # type: ignore[misc]
        self._follow()

    def _decoding(self, decoder: GraphDecoder) -> Any:
        """NeMo's decoding, by a graph."""
        raise NotImplementedError

    def _follow(self) -> None:
        if options := self.cfg.get("graph_decoding"):
            options = OmegaConf.to_container(options)
            path = self.register_artifact("graph_decoding.graph", options.pop("graph"))  # type: ignore[attr-defined]
            backend = options.pop("backend")
            decoder = GraphDecoder(Path(path), backend, Search(**options))
            self.decoding = self._decoding(decoder)
            self.wer.decoding = self.decoding  # type: ignore[attr-defined]


class GraphCTCModelBPE(_GraphModel, EncDecCTCModelBPE):
    """NeMo's CTC model with subwords, by a graph."""

    def _decoding(self, decoder: GraphDecoder) -> Any:
        return GraphCTCBPEDecoding(decoder, self.cfg.decoding, tokenizer=self.tokenizer)


class GraphCTCModel(_GraphModel, EncDecCTCModel):
    """NeMo's CTC model with characters, by a graph."""

    def _decoding(self, decoder: GraphDecoder) -> Any:
        return GraphCTCDecoding(decoder, self.cfg.decoding, vocabulary=self.decoder.vocabulary)


def use_graph(
    model: EncDecCTCModel, graph: Path | str | None, backend: str = "auto", search: Search | None = None
) -> None:
    """Let a CTC model follow a graph, from now on and after it was saved and restored.

    Args:
        model: the model; it becomes a `GraphCTCModelBPE` or a `GraphCTCModel`.
        graph: the file of the graph; None goes back to the strategy of ``model.cfg.decoding``.
        backend: see `GraphDecoder`.
        search: how widely to search.

    Raises:
        SigmelError: another kind of model, a file that is no graph, or one that was made for other tokens.
    """
    if not isinstance(model, EncDecCTCModel):
        raise SigmelError(f"{type(model).__name__} is no CTC model; a graph reads the tokens of CTC")
    if graph is not None:
        DecodingGraph.load(Path(graph)).check_tokens(tokens_of(model))
    if not isinstance(model, _GraphModel):
        model.__class__ = GraphCTCModelBPE if isinstance(model, EncDecCTCModelBPE) else GraphCTCModel
    with open_dict(model.cfg):
        model.cfg.target = f"{type(model).__module__}.{type(model).__name__}"
        model.cfg.graph_decoding = None
        if graph is not None:
            search = search or Search()
            model.cfg.graph_decoding = {"graph": str(graph), "backend": backend, **asdict(search)}
    model.change_decoding_strategy(model.cfg.decoding, verbose=False)


def tokens_of(model: EncDecCTCModel) -> Sequence[str]:
    """The names of a CTC model's tokens, the blank last."""
    if isinstance(model, EncDecCTCModelBPE):
        pieces = model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size)))
    else:
        pieces = list(model.decoder.vocabulary)
    return [*pieces, "<blk>"]
