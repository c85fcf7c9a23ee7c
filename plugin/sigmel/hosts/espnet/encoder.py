"""Encoders of the registry as ESPnet encoders."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor

from sigmel import registry
from sigmel.hosts.espnet.strict import check_when_loaded
from sigmel.models.encoder import EncoderOutput


class RegisteredEncoder(AbsEncoder):
    """An encoder of sigmel's registry, yours included, where ESPnet expects an encoder; see `espnet_encoder`.

    A checkpoint with other parameters than the encoder's is refused (SigmelError), whatever ESPnet asks for.

    Attributes:
        registered: its name in the registry.
        output: what the encoder returned in the last forward pass, for `SigmelASRModel`, which takes it away: it
            holds on to the graph.
    """

    registered: ClassVar[str]
    output: EncoderOutput | None = None

    def __init__(self, input_size: int, **conf: Any):
        super().__init__()
        self.core = registry.get("encoder", self.registered)(input_size=input_size, **conf)
        check_when_loaded(self, lambda name: "core." in name)

    def output_size(self) -> int:
        """D."""
        return self.core.output_size()

    def forward(
        self, xs_pad: Tensor, ilens: Tensor, prev_states: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encode utterances.

        Args:
            xs_pad: (B, T, F) features.
            ilens: (B,) how many of the T frames exist.
            prev_states: not used.

        Returns:
            (B, T', D), its (B,) lengths, and None.
        """
        output = self.core(xs_pad[:, : int(ilens.max())], ilens)  # ESPnet wants no frame beyond the longest
        self.output = output if getattr(output, "routing", ()) else None
        return output[0], output[1], None


def espnet_encoder(name: str) -> type[RegisteredEncoder]:
    """Make the ESPnet class of a registered encoder.

    Its arguments are the encoder's own, under their own names, so that ``--print_config`` shows them; an unknown one
    is a TypeError that names it.

    Raises:
        RegistryError: no encoder has that name, or it cannot be loaded.
    """
    core = registry.get("encoder", name)
    signature = inspect.signature(core)

    class Encoder(RegisteredEncoder):
        __doc__ = f"{core.__module__}.{core.__qualname__} as an ESPnet encoder.\n\n{inspect.getdoc(core)}"
        registered = name

    Encoder.__name__ = Encoder.__qualname__ = core.__name__
    Encoder.__signature__ = signature
    return Encoder
