"""Recognisers that only NeMo can run, as `sigmel routing` looks into them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nemo.collections.asr import models
from nemo.core import ModelPT
from torch import Tensor

from sigmel.errors import SigmelError, reading
from sigmel.hosts.nemo.restore import load_model
from sigmel.routing_study.recogniser import RoutedRecogniser

CTC = (models.EncDecCTCModel, models.EncDecCTCModelBPE)
TRANSDUCERS = (models.EncDecRNNTModel, models.EncDecRNNTBPEModel)
HYBRIDS = (models.EncDecHybridRNNTCTCModel, models.EncDecHybridRNNTCTCBPEModel)


class NeMoRecogniser(RoutedRecogniser):
    """A CTC, transducer or hybrid model of NeMo with our routers in its encoder.

    Texts are found by the search in the model's configuration, of a hybrid model by that of its CTC branch. A
    transducer has no token in a frame, since its tokens also depend on its prediction network.

    Args:
        model: the model, in eval mode.

    Raises:
        SigmelError: the model is of another class, or its encoder has no routers.
    """

    def __init__(self, model: models.ASRModel):
        kind = type(model)
        head: Any = None
        if kind in HYBRIDS:
            head, decoding = model.ctc_decoder, model.ctc_decoding
        elif kind in CTC:
            head, decoding = model.decoder, model.decoding
        elif kind in TRANSDUCERS:
            decoding = model.decoding
        else:
            raise SigmelError(f"target: {kind.__name__} is none of NeMo's CTC, transducer and hybrid models")
        window_stride = model.cfg.preprocessor.get("window_stride", 0.01)  # NeMo's default
        super().__init__(
            model.encoder,
            int(model.preprocessor._sample_rate),
            float(window_stride) * int(model.encoder.subsampling_factor),
            [] if head is None else ["<blank>", *head.vocabulary],
        )
        self.model = model
        self.head = head
        self._decoding = decoding

    def encode(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `RoutedRecogniser.encode`."""
        features, lengths = self.model.preprocessor(input_signal=waveforms, length=lengths)
        encoded, lengths = self.encoder(audio_signal=features, length=lengths)
        return encoded.transpose(1, 2), lengths

    def tokens(self, hidden: Tensor) -> Tensor:
        """See `RoutedRecogniser.tokens`."""
        scores = self.head(encoder_output=hidden.transpose(1, 2))  # (B, T, V + 1), blank last
        return scores.roll(1, -1).argmax(-1)

    def texts(self, hidden: Tensor, lengths: Tensor) -> list[str]:
        """See `RoutedRecogniser.texts`."""
        encoded = hidden.transpose(1, 2)
        if self.head is None:
            found = self._decoding.rnnt_decoder_predictions_tensor(encoded, lengths)
        else:
            found = self._decoding.ctc_decoder_predictions_tensor(self.head(encoder_output=encoded), lengths)
        # A beam search gives a list of hypotheses for each utterance.
        return [(hypotheses[0] if isinstance(hypotheses, list) else hypotheses).text for hypotheses in found]


def load_recogniser(path: Path) -> NeMoRecogniser:
    """Load a `.nemo` file for inference, by NeMo.

    Raises:
        SigmelError: naming the file: NeMo cannot restore it, or see `NeMoRecogniser`.
    """
    model = load_model(path, ModelPT)
    with reading(path, "a recogniser with routers"):
        return NeMoRecogniser(model).eval()
