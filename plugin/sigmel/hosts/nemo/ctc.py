"""NeMo's CTC models as graphs and forced alignment use them: tokens, and log-probabilities of the tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.collections.asr.models import EncDecCTCModel
from nemo.core import ModelPT
from numpy.typing import NDArray

from sigmel.decoding.graph.tokens import ModelTokens
from sigmel.files.audio import read_audio
from sigmel.hosts.nemo.graph import tokens_of
from sigmel.hosts.nemo.restore import load_model


def read_tokens(path: Path) -> ModelTokens:
    """The tokens of a model with CTC in a `.nemo` file, see `tokens_of`."""
    return tokens_of(load_model(path, ModelPT, "cpu"))


class CTCModel:
    """A CTC model of NeMo: its tokens, and the log-probabilities of these tokens in audio.

    Args:
        path: the file (.nemo).

    Attributes:
        model: NeMo's.
        tokens: see `tokens_of`.
        frame_seconds: seconds between two frames of log-probabilities.
    """

    def __init__(self, path: Path) -> None:
        self.model = load_model(path, EncDecCTCModel)
        self.tokens = tokens_of(self.model)
        self.frame_seconds = float(self.model.cfg.preprocessor.window_stride) * self.model.encoder.subsampling_factor

    @torch.inference_mode()
    def log_probs(self, row: dict[str, Any]) -> NDArray[np.float32]:
        """(T, V) log-probabilities of the audio of a manifest's row.

        Raises:
            AudioError: the audio cannot be used.
        """
        model = self.model
        audio, _ = read_audio(row["audio_filepath"], int(model.preprocessor._sample_rate))
        signal = torch.from_numpy(audio)[None].to(model.device)
        found, length, _ = model(input_signal=signal, input_signal_length=torch.tensor([len(audio)]).to(model.device))
        return found[0, : int(length)].float().cpu().numpy()
