"""Vocoders trained with NeMo, for the log-mel of dMel tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from nemo.collections.tts.models.base import Vocoder
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.hosts.nemo.restore import load_model
from sigmel.layers.masks import valid_frames


class NeMoVocoder(nn.Module):
    """A vocoder of NeMo's, such as HiFi-GAN, as a vocoder of the registry (`vocoder.nemo`).

    Args:
        tokenizer: made the log-mel.
        model: a `.nemo` file, or a vocoder of NeMo's.

    Attributes:
        config: settings of the log-mel that the vocoder was trained on, with the names of `DMelSettings`.

    Raises:
        SigmelError: the file is no vocoder of NeMo's, or a vocoder for other features than log-mel magnitudes.
    """

    config: dict[str, Any]

    def __init__(self, tokenizer: DMelTokenizer, model: str | Path | Vocoder):
        super().__init__()
        self.core = model.eval() if isinstance(model, Vocoder) else load_model(Path(model), Vocoder, device="cpu")
        mel = self.core.cfg.preprocessor
        if mel.get("mag_power", 2.0) != 1.0 or not mel.get("log", True) or mel.get("normalize") or mel.get("preemph"):
            raise SigmelError(f"{model}: was trained on other features than the plain logarithm of mel magnitudes")
        rate = mel.sample_rate

        def length(of: str) -> float:
            """Milliseconds of a length that NeMo gives in samples or in seconds."""
            samples = mel.get(f"n_{of}")
            return 1000 * (mel.get(of) if samples is None else samples / rate)

        self.config = {
            "sample_rate": rate,
            "hop_ms": length("window_stride"),
            "window_ms": length("window_size"),
            "n_fft": mel.get("n_fft") or 2 ** math.ceil(math.log2(length("window_size") * rate / 1000)),
            "channels": mel.get("nfilt") or mel.features,
            "low_hz": mel.get("lowfreq", 0),
            "high_hz": mel.get("highfreq") or rate / 2,
        }
        self.hop = round(self.config["hop_ms"] * rate / 1000)
        self.floor = float(mel.get("log_zero_guard_value", 2**-24))
        self.floor_is_added = mel.get("log_zero_guard_type", "add") == "add"

    @torch.no_grad()
    def forward(self, log_mel: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Waveforms (B, samples) of log-mel (B, T, C), log10 of magnitudes; their (B,) lengths, T times the hop."""
        if lengths is None:
            lengths = torch.full((len(log_mel),), log_mel.shape[1], device=log_mel.device)
        mel = 10**log_mel
        mel = mel + self.floor if self.floor_is_added else mel.clamp(min=self.floor)
        waveform = self.core.convert_spectrogram_to_audio(spec=mel.log().transpose(1, 2))
        lengths = lengths * self.hop
        return waveform * valid_frames(lengths, waveform.shape[1]), lengths
