"""Graph decoding in NeMo's models with CTC: after ``use_graph(model, "HLG.npz")`` all is as ever.

``model.transcribe()``, with timestamps and the confidence of words, too, validation, and saving and restoring follow
the graph: a ``.nemo`` file carries it and names the class below that knows what to do with it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import (
    EncDecCTCModel,
    EncDecCTCModelBPE,
    EncDecHybridRNNTCTCBPEModel,
    EncDecHybridRNNTCTCModel,
)
from nemo.collections.asr.parts.submodules.ctc_decoding import CTCBPEDecoding, CTCDecoding
from nemo.collections.asr.parts.utils import rnnt_utils
from nemo.core import ModelPT
from omegaconf import DictConfig, OmegaConf, open_dict

from sigmel.decoding import GraphDecoder, Search
from sigmel.decoding.graph.lexicon import Spelling
from sigmel.decoding.graph.tokens import ModelTokens, characters
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.mbr import confidences
from sigmel.errors import SigmelError

Found = list[rnnt_utils.Hypothesis] | list[rnnt_utils.NBestHypotheses]


class GraphInfer:
    """What NeMo calls an inference strategy, by a graph; it gives alignments, which NeMo's decoding collapses.

    Args:
        decoder: decodes with the graph.
        nbest: how many different texts of each utterance; one is no list.
        confidence: whether to say how sure each word of the best is.
    """

    override_fold_consecutive_value = True

    def __init__(self, decoder: GraphDecoder, nbest: int, confidence: bool) -> None:
        self.decoder, self.nbest, self.confidence = decoder, nbest, confidence

    def __call__(self, decoder_output: torch.Tensor, decoder_lengths: torch.Tensor) -> tuple[Found]:
        """Decode a batch.

        Args:
            decoder_output: (B, T, V) log-probabilities.
            decoder_lengths: (B,) frames of each.
        """
        if self.nbest > 1:
            lists = self.decoder.nbest(decoder_output, decoder_lengths, self.nbest)
            return ([rnnt_utils.NBestHypotheses([_hypothesis(path) for path in paths]) for paths in lists],)
        if not self.confidence:
            return ([_hypothesis(path) for path in self.decoder.decode(decoder_output, decoder_lengths)],)
        found = []
        for one in self.decoder.lattices(decoder_output, decoder_lengths):
            if isinstance(one, Hypothesis):
                found.append(_hypothesis(one, []))
            else:
                path = one.best()
                found.append(_hypothesis(path, confidences(one, path)))
        return (found,)


def _hypothesis(path: Hypothesis, confidence: list[float] | None = None) -> rnnt_utils.Hypothesis:
    alignment = torch.from_numpy(path.alignment).long()
    found = rnnt_utils.Hypothesis(path.score, alignment, length=len(alignment), word_confidence=confidence)
    found.path = path
    return found


class _FollowsGraph:
    """What NeMo's decoding classes do otherwise where they follow a graph: the text is that of its words."""

    def __init__(self, decoder: GraphDecoder, nbest: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoding = GraphInfer(decoder, nbest, self.preserve_word_confidence)  # type: ignore[attr-defined]

    def decode_hypothesis(
        self, hypotheses_list: list[rnnt_utils.Hypothesis], fold_consecutive: bool
    ) -> list[rnnt_utils.Hypothesis]:
        """See NeMo."""
        found = super().decode_hypothesis(hypotheses_list, fold_consecutive)  # type: ignore[misc]
        if not self.compute_timestamps:  # type: ignore[attr-defined]
            for one in found:
                self._write(one)
        return found

    def compute_confidence(self, hypotheses_list: list[rnnt_utils.Hypothesis]) -> list[rnnt_utils.Hypothesis]:
        """See NeMo; the words know theirs already."""
        return hypotheses_list

    def compute_ctc_timestamps(
        self, hypothesis: rnnt_utils.Hypothesis, timestamp_type: str = "all"
    ) -> rnnt_utils.Hypothesis:
        """See NeMo."""
        hypothesis.text = hypothesis.text[:2]  # NeMo forgets to take the third away where there are n best
        found = super().compute_ctc_timestamps(hypothesis, timestamp_type)  # type: ignore[misc]
        self._write(found)
        if timestamp_type in ("word", "all") and not self.decoding.decoder.graph.writes_tokens:
            found.timestamp["word"] = [
                {"word": word.name, "start_offset": word.start, "end_offset": word.end}
                for word in hypothesis.path.words
            ]
        return found

    def _write(self, hypothesis: rnnt_utils.Hypothesis) -> None:
        if not self.decoding.decoder.graph.writes_tokens:
            hypothesis.text = hypothesis.path.text


class GraphCTCBPEDecoding(_FollowsGraph, CTCBPEDecoding):
    """NeMo's decoding of subwords, by a graph."""


class GraphCTCDecoding(_FollowsGraph, CTCDecoding):
    """NeMo's decoding of characters, by a graph."""


class _GraphModel:
    """What NeMo's models do otherwise where ``graph_decoding`` stands in their configuration."""

    cfg: DictConfig
    _followed: tuple[dict[str, Any], GraphDecoder] | None = None

    def __init__(self, cfg: DictConfig, trainer: Any = None) -> None:
        super().__init__(cfg=cfg, trainer=trainer)  # type: ignore[call-arg]
        self._follow()
        if isinstance(self, EncDecHybridRNNTCTCModel) and self._followed:
            self.cur_decoder = "ctc"

    def change_decoding_strategy(self, *args: Any, **options: Any) -> None:
        """See NeMo, which calls it for timestamps, too; the graph stays, see `use_graph`."""
        super().change_decoding_strategy(*args, **options)  # type: ignore[misc]
        self._follow()

    def _follow(self) -> None:
        found = self.cfg.get("graph_decoding")
        options = found and OmegaConf.to_container(found)
        if not options:
            self._followed = None
            return
        nbest = options.pop("nbest")
        if self._followed is None or self._followed[0] != options:
            self._followed = (options, self._read(options))
        decoder = self._followed[1]
        hybrid = isinstance(self, EncDecHybridRNNTCTCModel)
        config = self.cfg.aux_ctc.decoding if hybrid else self.cfg.decoding
        decoding: GraphCTCBPEDecoding | GraphCTCDecoding
        if _has_subwords(self):
            decoding = GraphCTCBPEDecoding(decoder, nbest, config, tokenizer=self.tokenizer)  # type: ignore[attr-defined]
        else:
            decoding = GraphCTCDecoding(decoder, nbest, config, vocabulary=_ctc_decoder(self).vocabulary)
        if hybrid:
            self.ctc_decoding = self.ctc_wer.decoding = decoding  # type: ignore[attr-defined]
        else:
            self.decoding = self.wer.decoding = decoding  # type: ignore[attr-defined]

    def _read(self, options: dict[str, Any]) -> GraphDecoder:
        """The decoder of a configuration that was restored."""
        graph, rescore = self._keep(options)
        search = Search(**{name: options[name] for name in asdict(Search())})
        lm = None if rescore is None else Path(rescore)
        found = GraphDecoder(Path(graph), options["backend"], search, lm, options["rescore_scale"])
        found.graph.check_tokens(tokens_of(self).names)
        return found

    def _keep(self, options: dict[str, Any]) -> tuple[str, str | None]:
        """Let a .nemo file carry the files of a configuration; where they lie."""
        keep = self.register_artifact  # type: ignore[attr-defined]
        return keep("graph_decoding.graph", options["graph"]), keep("graph_decoding.rescore", options["rescore"])


class GraphCTCModelBPE(_GraphModel, EncDecCTCModelBPE):
    """NeMo's CTC model with subwords, by a graph."""


class GraphCTCModel(_GraphModel, EncDecCTCModel):
    """NeMo's CTC model with characters, by a graph."""


class GraphHybridModelBPE(_GraphModel, EncDecHybridRNNTCTCBPEModel):
    """The CTC branch of NeMo's hybrid model with subwords, by a graph."""


class GraphHybridModel(_GraphModel, EncDecHybridRNNTCTCModel):
    """The CTC branch of NeMo's hybrid model with characters, by a graph."""


# The first that a model is.
FOLLOWING: dict[type[ModelPT], type[ModelPT]] = {
    EncDecHybridRNNTCTCBPEModel: GraphHybridModelBPE,
    EncDecHybridRNNTCTCModel: GraphHybridModel,
    EncDecCTCModelBPE: GraphCTCModelBPE,
    EncDecCTCModel: GraphCTCModel,
}


def use_graph(
    model: ModelPT,
    graph: Path | str | None,
    backend: str = "auto",
    search: Search | None = None,
    rescore: Path | str | None = None,
    rescore_scale: float = 1.0,
    nbest: int = 1,
) -> None:
    """Let a model follow a graph, from now on and after it was saved and restored.

    ``confidence_cfg.preserve_word_confidence`` of NeMo's decoding gives hypotheses the probability of each word in its
    place among the paths of the lattice.

    Args:
        model: a CTC model, or a hybrid one, whose CTC branch decodes from now on; it becomes one of the classes above.
        graph: the file of the graph; None goes back to the strategies of the model's configuration.
        backend: see `GraphDecoder`.
        search: how widely to search.
        rescore: the file of an n-gram model that rescores every lattice, see `GraphDecoder`.
        rescore_scale: what its scores are multiplied with.
        nbest: how many different texts of each utterance; more than one makes ``transcribe()`` give lists, as NeMo's
            beam search does, and is for transcribing only.

    Raises:
        SigmelError: another kind of model, a file that is no graph, or one that was made for other tokens.
    """
    kind = _kind(model)
    if nbest < 1:
        raise SigmelError(f"nbest: {nbest} must be at least 1")
    options = decoder = None
    if graph is not None:
        lm = None if rescore is None else Path(rescore)
        decoder = GraphDecoder(Path(graph), backend, search, lm, rescore_scale)
        decoder.graph.check_tokens(tokens_of(model).names)
        files = {"graph": str(graph), "rescore": lm and str(lm), "rescore_scale": rescore_scale}
        options = {**files, "backend": backend, **asdict(decoder.search)}
    if not isinstance(model, _GraphModel):
        model.__class__ = FOLLOWING[kind]
    for file in ("graph", "rescore"):  # those of an earlier call
        (getattr(model, "artifacts", None) or {}).pop(f"graph_decoding.{file}", None)
    with open_dict(model.cfg):
        model.cfg.target = f"{type(model).__module__}.{type(model).__name__}"
        model.cfg.graph_decoding = options and {**options, "nbest": nbest}
    model._followed = options and (options, decoder)
    if options:
        model._keep(options)
    if isinstance(model, EncDecHybridRNNTCTCModel):
        model.change_decoding_strategy(model.cfg.aux_ctc.decoding, decoder_type="ctc", verbose=False)
        if graph is None:
            model.change_decoding_strategy(model.cfg.decoding, decoder_type="rnnt", verbose=False)
    else:
        model.change_decoding_strategy(model.cfg.decoding, verbose=False)


def tokens_of(model: ModelPT) -> ModelTokens:
    """The tokens of a model with CTC, the blank last, and how it spells words with them.

    Raises:
        SigmelError: another kind of model.
    """
    _kind(model)
    if not _has_subwords(model):
        names = [*_ctc_decoder(model).vocabulary, "<blk>"]
        return characters(names, len(names) - 1)
    pieces = model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size)))
    unknown = getattr(model.tokenizer, "unk_id", None)

    def spell(word: str) -> Spelling | None:
        numbers = model.tokenizer.text_to_ids(word)
        return None if unknown in numbers else tuple(numbers)

    return ModelTokens((*pieces, "<blk>"), len(pieces), spell)


def _kind(model: ModelPT) -> type[ModelPT]:
    """Which of the kinds that may follow a graph a model is."""
    for kind in FOLLOWING:
        if isinstance(model, kind):
            return kind
    raise SigmelError(f"{type(model).__name__} has no CTC, whose tokens a graph reads")


def _has_subwords(model: Any) -> bool:
    return isinstance(model, EncDecCTCModelBPE | EncDecHybridRNNTCTCBPEModel)


def _ctc_decoder(model: Any) -> Any:
    return model.ctc_decoder if isinstance(model, EncDecHybridRNNTCTCModel) else model.decoder
