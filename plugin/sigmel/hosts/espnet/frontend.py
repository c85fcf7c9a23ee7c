"""Front ends of the registry as ESPnet front ends."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor

from sigmel import registry
from sigmel.files.audio import parse_sample_rate
from sigmel.options import flat_signature


class RegisteredFrontend(AbsFrontend):
    """A front end of sigmel's registry, also of other packages, where ESPnet expects one; see `espnet_frontend`.

    A front end whose class has `discrete = True` gives tokens, and must be used with `normalize: null`.

    Attributes:
        registered: the name of the front end in the registry.
    """

    registered: ClassVar[str]

    def __init__(self, fs: int | str = 16000, **conf: Any):
        super().__init__()
        self.core = registry.build("frontend", self.registered, sample_rate=parse_sample_rate(fs), **conf)

    def output_size(self) -> int:
        """The number of features a frame, F."""
        return self.core.output_size()

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:  # ESPnet's name
        """(B, T, F) features and their (B,) lengths, of (B, samples) waveforms and their (B,) lengths."""
        return self.core(input, input_lengths)


def espnet_frontend(name: str) -> type[RegisteredFrontend]:
    """Make the ESPnet class of a registered front end; the arguments are the same, but for `fs` as `sample_rate`.

    Raises:
        RegistryError: no front end has that name, or it cannot be loaded.
    """
    core = registry.get("frontend", name)

    class Frontend(RegisteredFrontend):
        __doc__ = f"{core.__module__}.{core.__qualname__} as an ESPnet front end.\n\n{inspect.getdoc(core)}"
        registered = name

    Frontend.__name__ = Frontend.__qualname__ = core.__name__
    Frontend.__signature__ = flat_signature(RegisteredFrontend, core, without=["sample_rate"])
    return Frontend
