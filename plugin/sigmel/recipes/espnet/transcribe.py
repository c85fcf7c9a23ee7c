"""Transcribing with a model that ESPnet saved, by ESPnet's own search or, of its CTC branch, by a graph."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.bin.asr_inference import Speech2Text

from sigmel.decoding.graph.tokens import ModelTokens
from sigmel.decoding.search.alignment import align
from sigmel.decoding.search.graph_decoder import GraphDecoder
from sigmel.errors import SigmelError
from sigmel.files.batches import Row
from sigmel.hosts.espnet.asr_inference_graph import by_graph
from sigmel.hosts.espnet.restore import load_speech2text, measure, sample_rate
from sigmel.recipes.transcription import Batches, Transcriber


def load(path: Path, graph: Path | None = None, timestamps: bool = False, **options: Any) -> Transcriber:
    """Load a speech recogniser of ESPnet, which takes one utterance at a time.

    Args:
        path: archive that ESPnet packed, or a `.pth` with its `config.yaml` beside it.
        graph: graph to decode with. Default: None, for ESPnet's own search.
        timestamps: whether transcripts are aligned by CTC, for the times of their words. Default: False.
        **options: of `GraphDecoder`.

    Raises:
        SigmelError: ESPnet cannot build the file, the graph is of other tokens, or timestamps need CTC.
    """
    decoder = GraphDecoder(graph, **options) if graph else None
    model = load_speech2text(path, kind=by_graph(decoder) if decoder else Speech2Text)
    if timestamps and getattr(model.asr_model, "ctc", None) is None:
        raise SigmelError("--timestamps: a model without CTC (ctc_weight: 0) has none; one with CTC does")
    align_text = _Aligner(model, decoder) if timestamps else None

    @torch.inference_mode()
    def transcribe(batches: Batches) -> list[Row]:
        rows: list[Row] = []
        for samples in chain.from_iterable(batches):
            text = model(samples)[0][0]
            rows.append({"pred_text": text} | ({"words": align_text(samples, text)} if align_text else {}))
        return rows

    def encode(batches: Batches) -> None:
        for samples in chain.from_iterable(batches):
            _encoded(model, samples)

    rate = sample_rate(model.asr_train_args.frontend_conf)
    return Transcriber(model.asr_model, rate, transcribe, encode, batched=False)


class _Aligner:
    """Finds the times of the words of a transcript, by CTC."""

    def __init__(self, model: Speech2Text, decoder: GraphDecoder | None) -> None:
        self.model = model
        self.lexicon = decoder.graph.lexicon if decoder and not decoder.graph.writes_tokens else None
        window_stride, factor = measure(model.asr_model, sample_rate(model.asr_train_args.frontend_conf))
        self.frame = window_stride * factor
        numbers = {name: number for number, name in enumerate(model.asr_model.token_list)}

        def spell(word: str) -> tuple[int, ...]:
            return tuple(numbers.get(piece, numbers["<unk>"]) for piece in model.tokenizer.text2tokens(word))

        self.tokens = ModelTokens(tuple(numbers), 0, spell, numbers.get("<space>"))

    def __call__(self, samples: np.ndarray, text: str) -> list[Row]:
        if not (words := text.split()):
            return []
        log_probs = self.model.asr_model.ctc.log_softmax(_encoded(self.model, samples))[0].float().cpu().numpy()
        path = align(log_probs, words, self.tokens, self.lexicon)
        times = [(name, round(start * self.frame, 3), round(end * self.frame, 3)) for name, start, end in path.words]
        return [{"word": name, "start": start, "end": end} for name, start, end in times]


@torch.inference_mode()
def _encoded(model: Speech2Text, samples: np.ndarray) -> torch.Tensor:
    """(1, T, D) of a waveform."""
    speech = torch.from_numpy(samples)[None].to(model.device)
    hidden, _ = model.asr_model.encode(speech, torch.tensor([len(samples)], device=model.device))
    return hidden[0] if isinstance(hidden, tuple) else hidden  # a tuple also has outputs of other layers
