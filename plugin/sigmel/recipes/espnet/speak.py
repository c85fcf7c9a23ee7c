"""Speaking with a synthesiser that ESPnet saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.hosts.espnet.dmel_lm import RichTTS
from sigmel.hosts.espnet.restore import load_text2speech
from sigmel.recipes.synthesis import Synthesiser


def load(path: Path, seed: int, **options: Any) -> Synthesiser:
    """Load a synthesiser, which says one text at a time, always with the same random numbers.

    Args:
        path: archive that ESPnet packed, or a `.pth` with its `config.yaml` beside it.
        seed: of the random numbers.
        **options: of sampling, of our language model over dMel (`tts: dmel_lm`). Defaults: the model's own.

    Raises:
        SigmelError: ESPnet cannot build the file, or another model is given options.
    """
    model, dmel = load_text2speech(path, seed), None
    if isinstance(model.tts, RichTTS):
        model.tts.sampling |= options
        dmel = model.tts.dmel if model.use_spembs else None
    elif options:
        raise SigmelError(f"{', '.join(options)}: {type(model.tts).__name__} does not sample; leave them out")

    def speak(texts: Sequence[str], voices: Tensor | None, number: int) -> Iterator[np.ndarray]:
        for at, text in enumerate(texts):
            yield model(text, spembs=None if voices is None else voices[at])["wav"].cpu().numpy()

    return Synthesiser(model.fs, dmel, speak)
