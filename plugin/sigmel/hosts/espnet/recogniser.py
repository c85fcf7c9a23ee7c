"""Recognisers that only ESPnet can run, as `sigmel routing` looks into them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.recipes.espnet.transcribe import load_model, sample_rate
from sigmel.routing_study.recogniser import BLANK, RoutedRecogniser


class EspnetRecogniser(RoutedRecogniser):
    """A model of ESPnet that was trained with CTC, alone or beside a decoder, with routers of ours in its encoder.

    It is heard through CTC, by greedy search.

    Args:
        model: ESPnet's inference class, with the model.

    Raises:
        SigmelError: the model has no CTC, or its encoder no routers.
    """

    def __init__(self, model: Speech2Text):
        asr, rate = model.asr_model, sample_rate(model)
        if getattr(asr, "ctc", None) is None:
            raise SigmelError("ctc_weight: 0: a model without CTC hears no token in a frame")
        samples, features, frames = self._measure(asr, 10 * rate)
        super().__init__(asr.encoder, rate, round(samples / features) / rate, round(features / frames), asr.token_list)
        self.asr = asr
        self._silent = {asr.token_list[number] for number in (BLANK, asr.sos, asr.eos)}
        self._tokenizer = model.tokenizer
        self._tokenizer.tokens2text([])  # SentencePiece reads its file when first used, which may be gone by then

    @staticmethod
    @torch.no_grad()
    def _measure(asr: ESPnetASRModel, samples: int) -> tuple[int, int, int]:
        """So many samples, and their frames of features and of the encoder, which ESPnet's classes do not tell."""
        device = next(asr.parameters()).device
        speech, length = 0.1 * torch.randn(1, samples, device=device), torch.tensor([samples], device=device)
        return samples, int(asr._extract_feats(speech, length)[1]), int(asr.encode(speech, length)[1])

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutedRecogniser.encode`."""
        hidden, lengths = self.asr.encode(waveforms, lengths)
        return hidden[0] if isinstance(hidden, tuple) else hidden, lengths  # a tuple has outputs of other layers, too

    def tokens(self, hidden: Tensor) -> Tensor:
        """See `RoutedRecogniser.tokens`."""
        return self.asr.ctc.argmax(hidden)

    def texts(self, hidden: Tensor, lengths: Tensor) -> list[str]:
        """See `RoutedRecogniser.texts`."""
        texts = []
        for heard, length in zip(self.tokens(hidden), lengths, strict=True):
            spoken = [self.names[token] for token in heard[:length].unique_consecutive().tolist()]
            texts.append(self._tokenizer.tokens2text([token for token in spoken if token not in self._silent]))
        return texts


def load_recogniser(path: Path) -> EspnetRecogniser:
    """Load a packed archive, or a ``.pth`` with its ``config.yaml`` beside it, by ESPnet, for inference.

    Raises:
        SigmelError: naming the file: ESPnet cannot build it, or see `EspnetRecogniser`.
    """
    with tempfile.TemporaryDirectory() as unpacked:
        model = load_model(path, Path(unpacked), beam_size=1)
        try:
            return EspnetRecogniser(model).eval()
        except SigmelError as error:
            raise SigmelError(f"{path}: {error}") from error
