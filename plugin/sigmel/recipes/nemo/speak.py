"""Speaking with a `.nemo` model that has learned to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.restore import load_model
from sigmel.recipes.synthesis import Synthesiser


def load(path: Path, seed: int, **options: Any) -> Synthesiser:
    """Load a language model over dMel for speaking.

    Args:
        path: the `.nemo` file.
        seed: of the random numbers, from which batches take different ones.
        **options: of `DMelLMModel.speak`; the temperature is 0.9 by default.

    Raises:
        SigmelError: NeMo cannot restore the file, or the model has not learned to speak.
    """
    model = load_model(path, DMelLMModel)
    if model.cfg.task == "asr":
        raise SigmelError(f"{path}: has not learned to speak")

    def speak(texts: Sequence[str], voices: Tensor | None, number: int) -> list[np.ndarray]:
        return model.speak(texts, voices, seed + number, **{"temperature": 0.9, **options})

    return Synthesiser(model.dmel.sample_rate, model.dmel if model.lm.speaker_size else None, speak)
