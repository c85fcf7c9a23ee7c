"""Encoders of the registry as ESPnet encoders."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.contextual_block_transformer_encoder import ContextualBlockTransformerEncoder
from torch import Tensor

from sigmel import registry
from sigmel.checkpoints.espnet import encoder_from_espnet, espnet_signature
from sigmel.checkpoints.strict_loading import check_when_loaded
from sigmel.errors import SigmelError
from sigmel.models.encoder import EncoderOutput


class RegisteredEncoder(AbsEncoder):
    """An encoder of sigmel's registry, also of other packages, where ESPnet expects one; see `espnet_class`.

    Options of streaming have ESPnet's names, see `sigmel.checkpoints.espnet`.

    An encoder with `step`, `initial_state` and a `chunk_size` serves ESPnet's streaming inference.

    A checkpoint with other parameters than the encoder's is refused (SigmelError), even if ESPnet loads with
    strict=False.

    Attributes:
        registered: the name of the encoder in the registry.
        output: the output of the last forward pass, with hidden frames detached. `SigmelASRModel` takes it away, since
            the loss in it keeps the tensors of the pass alive.
    """

    registered: ClassVar[str]
    signature = staticmethod(espnet_signature)  # of the ESPnet class of a registered name
    output: EncoderOutput | None = None

    def __init__(self, input_size: int, **conf: Any):
        super().__init__()
        self.core = registry.build(
            "encoder", self.registered, input_size=input_size, **encoder_from_espnet(self.registered, conf)
        )
        check_when_loaded(self, lambda name: "core." in name)

    def output_size(self) -> int:
        """The size D of an encoder frame."""
        return self.core.output_size()

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: Any = None,
        is_final: bool = True,
        infer_mode: bool = False,
    ) -> tuple[Tensor, Tensor, Any]:
        """Encode utterances, or the next features of streams.

        Args:
            xs_pad: (B, T, F) features.
            ilens: (B,) how many of the T frames exist.
            prev_states: in streaming, the states that the call before returned; None at the start of the streams.
            is_final: in streaming, whether the streams end with these features.
            infer_mode: whether this is streaming: any number of features, also 0, all of which exist.

        Returns:
            (B, T', D), its (B,) lengths, and, in streaming, the states for the next call. A stream gives its frames
            in whole hops, and the last frames at its end; together they equal the frames of the whole utterance.

        Raises:
            SigmelError: streaming with an encoder that sees the whole utterance.
        """
        if infer_mode:
            return self._stream(xs_pad, prev_states, is_final)
        output = self.core(xs_pad[:, : int(ilens.max())], ilens)  # ESPnet expects no frames beyond the longest length
        if isinstance(output, EncoderOutput):
            self.output = output._replace(hidden=output.hidden.detach())
        return output[0], output[1], None

    def _stream(self, features: Tensor, states: Any, is_final: bool) -> tuple[Tensor, Tensor, Any]:
        chunk = getattr(self.core, "chunk_size", None)
        if chunk is None:
            raise SigmelError("hop_size: an encoder that sees the whole utterance cannot stream; set hop_size")
        batch, _, channels = features.shape
        waiting, state = states or (features.new_zeros(batch, 0, channels), self.core.initial_state(batch))
        features = torch.cat([waiting, features], dim=1)
        hop = chunk * self.core.subsampling_factor
        count = features.shape[1] if is_final else features.shape[1] // hop * hop
        hidden = features.new_zeros(batch, 0, self.output_size())
        if count:
            hidden, state = self.core.step(features[:, :count], state)
        lengths = torch.full((batch,), hidden.shape[1], device=hidden.device)
        return hidden, lengths, None if is_final else (features[:, count:], state)


# ESPnet's streaming inference accepts instances of this class only, and calls `forward`. As an abstract base class it
# takes other classes as subclasses.
ContextualBlockTransformerEncoder.register(RegisteredEncoder)
