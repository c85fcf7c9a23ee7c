"""Front ends of the registry as ESPnet front ends."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from espnet2.asr.frontend.abs_frontend import AbsFrontend
from torch import Tensor

from sigmel import registry
from sigmel.files.audio import parse_sample_rate
from sigmel.flat_options import flat_signature


class RegisteredFrontend(AbsFrontend):
    """A front end of sigmel's registry, also of other packages, where ESPnet expects one; see `espnet_class`.

    A front end whose class has `discrete = True` gives tokens, and must be used with `normalize: null`.

    Attributes:
        registered: the name of the front end in the registry.
    """

    registered: ClassVar[str]

    def __init__(self, fs: int | str = 16000, **conf: Any):
        super().__init__()
        self.core = registry.build("frontend", self.registered, sample_rate=parse_sample_rate(fs), **conf)

    @classmethod
    def signature(cls, name: str) -> inspect.Signature:
        """The signature of the ESPnet class of a registered name, in which `fs` stands for `sample_rate`."""
        return flat_signature(RegisteredFrontend, registry.get("frontend", name), without=["sample_rate"])

    def output_size(self) -> int:
        """The number of features a frame, F."""
        return self.core.output_size()

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:  # ESPnet's name
        """(B, T, F) features and their (B,) lengths, of (B, samples) waveforms and their (B,) lengths."""
        return self.core(input, input_lengths)
