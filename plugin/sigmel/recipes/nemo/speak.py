"""Speaking with a `.nemo` model that has learned to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nemo.utils import logging
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.restore import load_model
from sigmel.recipes.synthesis import Synthesiser


class NemoSynthesiser(Synthesiser):
    """A language model over dMel.

    Args:
        model: the model.
        seed: of the random numbers, from which batches take different ones.
        **options: of `DMelLMModel.speak`.
    """

    def __init__(self, model: DMelLMModel, seed: int, **options: Any) -> None:
        self.model, self.seed, self.options = model, seed, options
        self.sample_rate = model.dmel.sample_rate
        self.dmel = model.dmel if model.lm.speaker_size else None

    def speak(self, texts: Sequence[str], voices: Tensor | None, number: int) -> list[np.ndarray]:
        """See `Synthesiser.speak`."""
        return self.model.speak(texts, voices, self.seed + number, **self.options)


def load(path: Path, seed: int, **options: Any) -> NemoSynthesiser:
    """Load a model for speaking; see `NemoSynthesiser`. The temperature is 0.9 by default.

    Raises:
        SigmelError: a file that NeMo cannot restore, or a model that has not learned to speak.
    """
    logging.setLevel(logging.ERROR)
    model = load_model(path, DMelLMModel)
    if model.cfg.task == "asr":
        raise SigmelError(f"{path}: has not learned to speak")
    return NemoSynthesiser(model, seed, **{"temperature": 0.9, **options})
