"""Speaking with a synthesiser that ESPnet saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from espnet2.bin.tts_inference import Text2Speech
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.hosts.espnet.dmel_lm import RichTTS
from sigmel.hosts.espnet.restore import load_text2speech
from sigmel.recipes.synthesis import Synthesiser


class EspnetSynthesiser(Synthesiser):
    """A synthesiser of ESPnet, which says one text at a time, always with the same random numbers.

    Args:
        model: ESPnet's inference class, with the model.
        **options: of sampling, which only our language model over dMel (`tts: dmel_lm`) has.

    Raises:
        SigmelError: options of sampling for another model.
    """

    def __init__(self, model: Text2Speech, **options: Any) -> None:
        self.model, self.sample_rate = model, model.fs
        ours = isinstance(model.tts, RichTTS)
        self.dmel = model.tts.dmel if ours and model.use_spembs else None
        if ours:
            model.tts.sampling |= options
        elif options:
            raise SigmelError(f"{', '.join(options)}: {type(model.tts).__name__} does not sample; leave them out")

    def speak(self, texts: Sequence[str], voices: Tensor | None, number: int) -> Iterator[np.ndarray]:
        """See `Synthesiser.speak`."""
        for at, text in enumerate(texts):
            spoken = self.model(text, spembs=None if voices is None else voices[at])
            yield spoken["wav"].cpu().numpy()


def load(path: Path, seed: int, **options: Any) -> EspnetSynthesiser:
    """Load a model for speaking; see `EspnetSynthesiser`.

    Args:
        path: archive that ESPnet packed, or a `.pth` with its `config.yaml` beside it.
        seed: of the random numbers.
        **options: see `EspnetSynthesiser`. Defaults: the model's own.

    Raises:
        SigmelError: a file that ESPnet cannot build, or see `EspnetSynthesiser`.
    """
    return EspnetSynthesiser(load_text2speech(path, seed), **options)
