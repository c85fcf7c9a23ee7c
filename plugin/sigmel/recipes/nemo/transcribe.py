"""Transcribing with a `.nemo` model, by NeMo's own decoding or by a graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.mixins.transcription import TranscribeConfig
from nemo.core import ModelPT
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset

from sigmel.errors import SigmelError
from sigmel.files.batches import Row
from sigmel.hosts.nemo.graph import use_graph
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.restore import load_model
from sigmel.recipes.transcription import Batches, Transcriber


def load(path: Path, graph: Path | None = None, timestamps: bool = False, **options: Any) -> Transcriber:
    """Load a speech recogniser of NeMo, or our language model over dMel.

    Args:
        path: the `.nemo` file.
        graph: graph to decode with. Default: None, for NeMo's own decoding.
        timestamps: whether NeMo computes the times of words. Default: False.
        **options: of `use_graph`.

    Raises:
        SigmelError: NeMo cannot restore the file, the model does not transcribe or has no timestamps, or see
            `use_graph`.
    """
    model = load_model(path, ModelPT)
    if graph:
        use_graph(model, graph, **options)
    if isinstance(model, DMelLMModel):
        if timestamps:
            raise SigmelError("--timestamps: a language model over dMel has none; models with CTC or RNN-T do")
        rate = model.dmel.sample_rate
    elif isinstance(model, ASRModel):
        rate = int(model.preprocessor._sample_rate)
    else:
        raise SigmelError(f"{path}: {type(model).__name__} does not transcribe")
    asked = {"timestamps": True, "return_hypotheses": True} if timestamps else {}

    @torch.inference_mode()
    def transcribe(batches: Batches) -> list[Row]:
        loader = DataLoader(_Padded(batches), batch_size=None)
        if isinstance(model, DMelLMModel):
            found = [hypothesis for batch in model.transcribe_generator(loader) for hypothesis in batch]
        else:
            found = model.transcribe(loader, override_config=TranscribeConfig(verbose=False, **asked)) or []
        rows = [{"pred_text": hypothesis.text} for hypothesis in found]
        if timestamps:
            rows = [row | {"words": _words(hypothesis)} for row, hypothesis in zip(rows, found, strict=True)]
        return rows

    return Transcriber(model, rate, transcribe, encode=transcribe)


def _words(hypothesis: Any) -> list[Row]:
    words = hypothesis.timestamp["word"] if hypothesis.text else []
    return [{"word": w["word"].strip(), "start": round(w["start"], 3), "end": round(w["end"], 3)} for w in words]


class _Padded(IterableDataset):
    """Batches of waveforms in the form that NeMo's `transcribe` takes."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, None, None]]:
        for batch in self.batches:
            rows = [torch.from_numpy(samples) for samples in batch]
            yield pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]), None, None
