"""Graph decoding in NeMo's CTC models: after `use_graph(model, "HLG.npz")` the model is used as before.

`model.transcribe()`, with timestamps and confidences of words, validation, saving and restoring follow the graph: a
`.nemo` file carries the graph and names one of the classes below, which restores it.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import (
    EncDecCTCModel,
    EncDecCTCModelBPE,
    EncDecHybridRNNTCTCBPEModel,
    EncDecHybridRNNTCTCModel,
)
from nemo.collections.asr.parts.submodules.ctc_decoding import AbstractCTCDecoding, CTCBPEDecoding, CTCDecoding
from nemo.collections.asr.parts.utils import rnnt_utils
from nemo.core import ModelPT
from omegaconf import DictConfig, open_dict

from sigmel.decoding import GraphDecoder, Hypothesis, Search
from sigmel.decoding.graph.lexicon import Spelling
from sigmel.decoding.graph.tokens import ModelTokens, characters
from sigmel.decoding.search.mbr import confidences
from sigmel.errors import SigmelError

Found = list[rnnt_utils.Hypothesis] | list[rnnt_utils.NBestHypotheses]


class GraphInfer:
    """Decodes by a graph as one of NeMo's inference strategies; NeMo collapses the alignments that it returns.

    Args:
        decoder: decodes with the graph.
        nbest: number of different texts of each utterance; 1 gives hypotheses instead of lists.
        confidence: whether to compute the confidence of each word of the best text.
    """

    override_fold_consecutive_value = True

    def __init__(self, decoder: GraphDecoder, nbest: int, confidence: bool) -> None:
        self.decoder, self.nbest, self.confidence = decoder, nbest, confidence

    def __call__(self, decoder_output: torch.Tensor, decoder_lengths: torch.Tensor) -> tuple[Found]:
        """Decode a batch.

        Args:
            decoder_output: (B, T, V) log-probabilities.
            decoder_lengths: (B,) frames of each utterance.
        """
        if self.nbest > 1:
            lists = self.decoder.nbest(decoder_output, decoder_lengths, self.nbest)
            return ([rnnt_utils.NBestHypotheses([_hypothesis(path) for path in paths]) for paths in lists],)
        if not self.confidence:
            return ([_hypothesis(path) for path in self.decoder.decode(decoder_output, decoder_lengths)],)
        found = []
        for lattice in self.decoder.lattices(decoder_output, decoder_lengths):
            if isinstance(lattice, Hypothesis):
                found.append(_hypothesis(lattice, []))
            else:
                path = lattice.best()
                found.append(_hypothesis(path, confidences(lattice, path)))
        return (found,)


def _hypothesis(path: Hypothesis, confidence: list[float] | None = None) -> rnnt_utils.Hypothesis:
    alignment = torch.from_numpy(path.alignment).long()
    found = rnnt_utils.Hypothesis(path.score, alignment, length=len(alignment), word_confidence=confidence)
    found.path = path
    return found


class _FollowsGraph(AbstractCTCDecoding):
    """Changes to NeMo's decoding classes: texts and times of words are those of the path through the graph."""

    def __init__(self, decoder: GraphDecoder, nbest: int, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.decoding = GraphInfer(decoder, nbest, self.preserve_word_confidence)
        self.own_text = not decoder.graph.writes_tokens  # otherwise NeMo makes the text of tokens

    def decode_hypothesis(
        self, hypotheses_list: list[rnnt_utils.Hypothesis], fold_consecutive: bool
    ) -> list[rnnt_utils.Hypothesis]:
        """See NeMo."""
        found = super().decode_hypothesis(hypotheses_list, fold_consecutive)
        for hypothesis in found:
            if self.compute_timestamps:
                hypothesis.text = hypothesis.text[:2]  # NeMo removes the third part only where nbest is 1
            elif self.own_text:
                hypothesis.text = hypothesis.path.text
        return found

    def compute_confidence(self, hypotheses_list: list[rnnt_utils.Hypothesis]) -> list[rnnt_utils.Hypothesis]:
        """See NeMo; `GraphInfer` has computed the confidences."""
        return hypotheses_list

    def compute_ctc_timestamps(
        self, hypothesis: rnnt_utils.Hypothesis, timestamp_type: str = "all"
    ) -> rnnt_utils.Hypothesis:
        """See NeMo."""
        found = super().compute_ctc_timestamps(hypothesis, timestamp_type)
        if self.own_text:
            found.text = hypothesis.path.text
            if timestamp_type in ("word", "all"):
                found.timestamp["word"] = [
                    {"word": word.name, "start_offset": word.start, "end_offset": word.end}
                    for word in hypothesis.path.words
                ]
        return found


class GraphCTCBPEDecoding(_FollowsGraph, CTCBPEDecoding):
    """NeMo's decoding of subwords, by a graph."""


class GraphCTCDecoding(_FollowsGraph, CTCDecoding):
    """NeMo's decoding of characters, by a graph."""


class _GraphModel(ModelPT):
    """Changes to NeMo's models: their CTC decoding follows the graph of `graph_decoding` in their configuration."""

    _graph_decoder: GraphDecoder | None = None

    def __init__(self, cfg: DictConfig, trainer: Any = None) -> None:
        super().__init__(cfg=cfg, trainer=trainer)
        if options := self.cfg.get("graph_decoding"):
            search = Search(**{field.name: options[field.name] for field in fields(Search)})
            graph, rescore = self._keep("graph"), self._keep("rescore")
            self._graph_decoder = _decoder(self, graph, options.backend, search, rescore, options.rescore_scale)
            self._follow()
            if isinstance(self, EncDecHybridRNNTCTCModel):
                self.cur_decoder = "ctc"

    def change_decoding_strategy(self, *args: Any, **options: Any) -> None:
        """See NeMo, which also calls this method for timestamps; the graph stays, see `use_graph`."""
        super().change_decoding_strategy(*args, **options)
        self._follow()

    def _follow(self) -> None:
        """Let the decoding that NeMo has made follow the graph."""
        if self._graph_decoder is None:
            return
        options = (self._graph_decoder, self.cfg.graph_decoding.nbest)
        made = _ctc_decoding(self)
        if isinstance(made, CTCBPEDecoding):
            decoding = GraphCTCBPEDecoding(*options, made.cfg, tokenizer=self.tokenizer)
        else:
            decoding = GraphCTCDecoding(*options, made.cfg, vocabulary=made.vocabulary)
        if isinstance(self, EncDecHybridRNNTCTCModel):
            self.ctc_decoding = self.ctc_wer.decoding = decoding
        else:
            self.decoding = self.wer.decoding = decoding

    def _keep(self, name: str) -> Path | None:
        """The path of a file in the configuration, which `.nemo` files carry from now on."""
        path = self.register_artifact(f"graph_decoding.{name}", self.cfg.graph_decoding[name])
        return None if path is None else Path(path)


class GraphCTCModelBPE(_GraphModel, EncDecCTCModelBPE):
    """NeMo's CTC model with subwords, by a graph."""


class GraphCTCModel(_GraphModel, EncDecCTCModel):
    """NeMo's CTC model with characters, by a graph."""


class GraphHybridModelBPE(_GraphModel, EncDecHybridRNNTCTCBPEModel):
    """The CTC branch of NeMo's hybrid model with subwords, by a graph."""


class GraphHybridModel(_GraphModel, EncDecHybridRNNTCTCModel):
    """The CTC branch of NeMo's hybrid model with characters, by a graph."""


# A model becomes the class beside the first of these classes that it is an instance of.
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

    With `confidence_cfg.preserve_word_confidence` of NeMo's decoding, hypotheses have the probability of each word in
    its place among the paths of the lattice.

    Args:
        model: a CTC model, or a hybrid model, whose CTC branch decodes from now on; its class becomes one of the
            classes above.
        graph: the file of the graph; None goes back to the strategies of the model's configuration.
        backend: see `GraphDecoder`.
        search: how widely to search.
        rescore: the file of an n-gram model that rescores every lattice, see `GraphDecoder`.
        rescore_scale: factor of the scores of `rescore`.
        nbest: number of different texts of each utterance; with more than 1, `transcribe()` gives lists, as with
            NeMo's beam search, and the model is for transcribing only.

    Raises:
        SigmelError: the model has no CTC, or the file is not a graph or was made for other tokens.
    """
    kind = _kind(model)
    if nbest < 1:
        raise SigmelError(f"nbest: {nbest} must be at least 1")
    decoder = options = None
    if graph is not None:
        lm = None if rescore is None else Path(rescore)
        decoder = _decoder(model, Path(graph), backend, search, lm, rescore_scale)
        files = {"graph": str(graph), "rescore": lm and str(lm)}
        options = {**files, "rescore_scale": rescore_scale, "backend": backend, **asdict(decoder.search)}
        options["nbest"] = nbest
    if not isinstance(model, _GraphModel):
        model.__class__ = FOLLOWING[kind]
    model._graph_decoder = decoder
    with open_dict(model.cfg):
        model.cfg.target = f"{type(model).__module__}.{type(model).__name__}"
        model.cfg.graph_decoding = options
    for name in ("graph", "rescore"):
        (getattr(model, "artifacts", None) or {}).pop(f"graph_decoding.{name}", None)  # of an earlier call
        if options:
            model._keep(name)
    if isinstance(model, EncDecHybridRNNTCTCModel):
        model.change_decoding_strategy(model.cfg.aux_ctc.decoding, decoder_type="ctc", verbose=False)
        if graph is None:
            model.change_decoding_strategy(model.cfg.decoding, decoder_type="rnnt", verbose=False)
    else:
        model.change_decoding_strategy(model.cfg.decoding, verbose=False)


def tokens_of(model: ModelPT) -> ModelTokens:
    """The tokens of a model with CTC, the blank last, and how the model spells words with them.

    Raises:
        SigmelError: the model has no CTC.
    """
    _kind(model)
    decoding = _ctc_decoding(model)
    if not isinstance(decoding, CTCBPEDecoding):
        names = [*decoding.vocabulary, "<blk>"]
        return characters(names, len(names) - 1)
    pieces = model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size)))
    unknown = getattr(model.tokenizer, "unk_id", None)

    def spell(word: str) -> Spelling | None:
        numbers = model.tokenizer.text_to_ids(word)
        return None if unknown in numbers else tuple(numbers)

    return ModelTokens((*pieces, "<blk>"), len(pieces), spell)


def _decoder(model: ModelPT, *options: Any) -> GraphDecoder:
    """A decoder, see `GraphDecoder`, with a graph that was made for a model's tokens."""
    decoder = GraphDecoder(*options)
    decoder.graph.check_tokens(tokens_of(model).names)
    return decoder


def _kind(model: ModelPT) -> type[ModelPT]:
    """The class of `FOLLOWING` that a model is an instance of."""
    for kind in FOLLOWING:
        if isinstance(model, kind):
            return kind
    raise SigmelError(f"{type(model).__name__} has no CTC, whose tokens a graph reads")


def _ctc_decoding(model: Any) -> CTCBPEDecoding | CTCDecoding:
    return model.ctc_decoding if isinstance(model, EncDecHybridRNNTCTCModel) else model.decoding
