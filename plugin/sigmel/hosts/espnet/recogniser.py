"""Recognisers that only ESPnet can run, as `sigmel routing` looks into them."""

from __future__ import annotations

from pathlib import Path

from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor

from sigmel.errors import SigmelError, reading
from sigmel.hosts.espnet.restore import load_speech2text, measure, sample_rate
from sigmel.routing_study.recogniser import BLANK, RoutedRecogniser


class EspnetRecogniser(RoutedRecogniser):
    """A model of ESPnet that was trained with CTC, alone or beside a decoder, with our routers in its encoder.

    Texts are those of CTC, by greedy search.

    Args:
        model: ESPnet's inference class, with the model.

    Raises:
        SigmelError: the model has no CTC, or its encoder no routers.
    """

    def __init__(self, model: Speech2Text):
        asr, rate = model.asr_model, sample_rate(model.asr_train_args.frontend_conf)
        if getattr(asr, "ctc", None) is None:
            raise SigmelError("ctc_weight: 0: a model without CTC has no token in a frame")
        window_stride, factor = measure(asr, rate)
        super().__init__(asr.encoder, rate, window_stride * factor, asr.token_list)
        self.asr = asr
        self.silent = {asr.token_list[number] for number in (BLANK, asr.sos, asr.eos)}
        self._tokenizer = model.tokenizer

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutedRecogniser.encode`."""
        hidden, lengths = self.asr.encode(waveforms, lengths)
        return hidden[0] if isinstance(hidden, tuple) else hidden, lengths  # a tuple also has outputs of other layers

    def tokens(self, hidden: Tensor) -> Tensor:
        """See `RoutedRecogniser.tokens`."""
        return self.asr.ctc.argmax(hidden)

    def spell(self, tokens: list[str]) -> str:
        """See `RoutedRecogniser.spell`."""
        return self._tokenizer.tokens2text(tokens)


def load_recogniser(path: Path) -> EspnetRecogniser:
    """Load a packed archive, or a `.pth` with its `config.yaml` beside it, by ESPnet, for inference.

    Raises:
        SigmelError: naming the file: ESPnet cannot build it, or see `EspnetRecogniser`.
    """
    model = load_speech2text(path, beam_size=1)
    with reading(path, "a recogniser with routers"):
        return EspnetRecogniser(model).eval()
