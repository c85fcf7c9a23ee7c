"""Transcribing with a `.nemo` model, by NeMo's own decoding or by a graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.mixins.transcription import TranscribeConfig
from nemo.core import ModelPT
from nemo.utils import logging
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, IterableDataset

from sigmel.errors import SigmelError
from sigmel.hosts.nemo.graph import use_graph
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.restore import load_model
from sigmel.recipes.transcription import Batches, Transcriber, Transcript, Word


class _Padded(IterableDataset):
    """Batches of waveforms in the form that NeMo's `transcribe` takes."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, None, None]]:
        for batch in self.batches:
            rows = [torch.from_numpy(samples) for samples in batch]
            yield pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows]), None, None


class NemoTranscriber(Transcriber):
    """A speech recogniser of NeMo, or our language model over dMel.

    Args:
        model: the model.
        timestamps: whether NeMo computes the times of words.

    Raises:
        SigmelError: a model of another kind, or one that has no timestamps.
    """

    module: ModelPT

    def __init__(self, model: ModelPT, timestamps: bool = False) -> None:
        self.module, self.timestamps = model, timestamps
        if isinstance(model, DMelLMModel):
            self.sample_rate = model.dmel.sample_rate
            if timestamps:
                raise SigmelError("--timestamps: a language model over dMel has none; models with CTC or RNN-T do")
        elif isinstance(model, ASRModel):
            self.sample_rate = int(model.preprocessor._sample_rate)
        else:
            raise SigmelError(f"{type(model).__name__} does not transcribe")

    def transcribe(self, batches: Batches) -> list[Transcript]:
        """See `Transcriber.transcribe`."""
        loader = DataLoader(_Padded(batches), batch_size=None)
        with torch.inference_mode():
            if isinstance(self.module, DMelLMModel):
                found = [one for batch in self.module.transcribe_generator(loader) for one in batch]
            else:
                timestamps = {"timestamps": True, "return_hypotheses": True} if self.timestamps else {}
                config = TranscribeConfig(verbose=False, **timestamps)
                found = self.module.transcribe(loader, override_config=config)
        return [Transcript(hypothesis.text, self._words(hypothesis)) for hypothesis in found or ()]  # None: no batch

    def _words(self, hypothesis: Any) -> list[Word]:
        words = hypothesis.timestamp["word"] if self.timestamps and hypothesis.text else []
        return [Word(word["word"].strip(), round(word["start"], 3), round(word["end"], 3)) for word in words]


def load(path: Path, graph: Path | None = None, timestamps: bool = False, **options: Any) -> NemoTranscriber:
    """Load a model for transcribing.

    Args:
        path: the `.nemo` file.
        graph: decode with this graph. Default: None, by NeMo's own decoding.
        timestamps: whether transcripts have words with their times.
        **options: of `use_graph`.

    Raises:
        SigmelError: a file that NeMo cannot restore, a model that does not transcribe, or see `use_graph`.
    """
    logging.setLevel(logging.ERROR)
    model = load_model(path, ModelPT)
    if graph:
        use_graph(model, graph, **options)
    return NemoTranscriber(model, timestamps)
