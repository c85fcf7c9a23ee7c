"""Recognisers that only ESPnet can run, as `sigmel routing` looks into them."""

from __future__ import annotations

from pathlib import Path

from espnet2.bin.asr_inference import Speech2Text
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.hosts.espnet.restore import load_speech2text, measure, sample_rate
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
        asr, rate = model.asr_model, sample_rate(model.asr_train_args.frontend_conf)
        if getattr(asr, "ctc", None) is None:
            raise SigmelError("ctc_weight: 0: a model without CTC hears no token in a frame")
        super().__init__(asr.encoder, rate, *measure(asr, rate), asr.token_list)
        self.asr = asr
        self._silent = {asr.token_list[number] for number in (BLANK, asr.sos, asr.eos)}
        self._tokenizer = model.tokenizer

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
    """Load a packed archive, or a `.pth` with its `config.yaml` beside it, by ESPnet, for inference.

    Raises:
        SigmelError: naming the file: ESPnet cannot build it, or see `EspnetRecogniser`.
    """
    model = load_speech2text(path, beam_size=1)
    try:
        return EspnetRecogniser(model).eval()
    except SigmelError as error:
        raise SigmelError(f"{path}: {error}") from error
