"""Transcribing with a model that ESPnet saved, by ESPnet's own search or, of its CTC branch, by a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text

from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.tokens import ModelTokens, spelling_by
from sigmel.decoding.search.alignment import align
from sigmel.decoding.search.decoder import GraphDecoder
from sigmel.errors import SigmelError
from sigmel.hosts.espnet.asr_inference_graph import by_graph
from sigmel.hosts.espnet.restore import load_speech2text, measure, sample_rate
from sigmel.recipes.transcription import Batches, Transcriber, Transcript, Word


class EspnetTranscriber(Transcriber):
    """A speech recogniser of ESPnet.

    The times of words are those of the best alignment of the transcript by CTC.

    Args:
        model: ESPnet's inference class, with the model.
        timestamps: whether the words of transcripts are aligned.
        lexicon: how words are spelled with the model's tokens. Default: None, as the tokenizer does.

    Raises:
        SigmelError: timestamps are asked for, and the model has no CTC.
    """

    module: ESPnetASRModel
    batched = False

    def __init__(self, model: Speech2Text, timestamps: bool = False, lexicon: Lexicon | None = None) -> None:
        self.model, self.module, self.timestamps, self.lexicon = model, model.asr_model, timestamps, lexicon
        if timestamps and getattr(self.module, "ctc", None) is None:
            raise SigmelError("--timestamps: a model without CTC (ctc_weight: 0) has none; one with CTC does")
        self.sample_rate = sample_rate(model.asr_train_args.frontend_conf)
        window_stride, factor = measure(self.module, self.sample_rate)
        self._frame_seconds = window_stride * factor
        self._tokens = _tokens_of(model)

    @torch.inference_mode()
    def transcribe(self, batches: Batches) -> list[Transcript]:
        """See `Transcriber.transcribe`."""
        found = []
        for batch in batches:
            for samples in batch:
                text = self.model(samples)[0][0]
                found.append(Transcript(text, self._words(samples, text) if self.timestamps else ()))
        return found

    @torch.inference_mode()
    def encode(self, batches: Batches) -> None:
        """See `Transcriber.encode`."""
        for batch in batches:
            for samples in batch:
                self._encoded(samples)

    def _encoded(self, samples: np.ndarray) -> torch.Tensor:
        speech = torch.from_numpy(samples)[None].to(self.model.device)
        hidden, _ = self.module.encode(speech, torch.tensor([len(samples)], device=self.model.device))
        return hidden[0] if isinstance(hidden, tuple) else hidden  # a tuple has outputs of other layers, too

    def _words(self, samples: np.ndarray, text: str) -> list[Word]:
        if not (words := text.split()):
            return []
        log_probs = self.module.ctc.log_softmax(self._encoded(samples))[0].float().cpu().numpy()
        path = align(log_probs, words, self._tokens.names, 0, self.lexicon or self._tokens.lexicon(words))
        frame = self._frame_seconds
        return [Word(name, round(start * frame, 3), round(end * frame, 3)) for name, start, end in path.words]


def _tokens_of(model: Speech2Text) -> ModelTokens:
    """The tokens of a model, and how its tokenizer spells words; what it cannot spell is `<unk>`."""
    names = tuple(model.asr_model.token_list)

    def pieces(word: str) -> list[str]:
        return [piece if piece in names else "<unk>" for piece in model.tokenizer.text2tokens(word)]

    separator = names.index("<space>") if "<space>" in names else None
    return ModelTokens(names, 0, spelling_by(names, pieces), separator)


def load(path: Path, graph: Path | None = None, timestamps: bool = False, **options: Any) -> EspnetTranscriber:
    """Load a model for transcribing.

    Args:
        path: archive that ESPnet packed, or a `.pth` with its `config.yaml` beside it.
        graph: decode with this graph. Default: None, by ESPnet's own search.
        timestamps: whether transcripts have words with their times.
        **options: of `GraphDecoder`.

    Raises:
        SigmelError: a file that ESPnet cannot build, a graph of other tokens, or see `EspnetTranscriber`.
    """
    if not graph:
        return EspnetTranscriber(load_speech2text(path), timestamps)
    decoder = GraphDecoder(graph, **options)
    lexicon = None if decoder.graph.writes_tokens else decoder.graph.lexicon
    return EspnetTranscriber(load_speech2text(path, kind=by_graph(decoder)), timestamps, lexicon)
