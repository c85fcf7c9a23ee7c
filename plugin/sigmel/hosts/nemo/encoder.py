"""Encoders of the registry as NeMo encoders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from nemo.collections.asr.models.configs import CacheAwareStreamingConfig
from nemo.collections.asr.parts.mixins.streaming import StreamingEncoder
from nemo.core.classes.common import typecheck
from nemo.core.classes.exportable import Exportable
from nemo.core.classes.mixins import AccessMixin
from nemo.core.classes.module import NeuralModule
from nemo.core.neural_types import (
    AcousticEncodedRepresentation,
    BoolType,
    ChannelType,
    LengthsType,
    NeuralType,
    SpectrogramType,
)
from torch import Tensor

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.flat_options import flat_options
from sigmel.hosts.nemo.streaming_caches import Caches, pack, unpack
from sigmel.layers.routing import RoutingDecision
from sigmel.models import encoder as core


class EncoderMixin(AccessMixin):
    """Mix-in of NeMo encoders with routed experts.

    Attributes:
        routing_observer: called after each forward pass over whole utterances with the decisions, one for each layer
            with routed experts, and the (B,) lengths in encoder frames, as `RoutingStatistics().update` is. Default:
            None.
        attention_norms: (L,) of the last batch in training, see `sigmel.models.encoder.EncoderOutput`.
    """

    routing_observer: Callable[[Sequence[RoutingDecision], Tensor], None] | None = None
    attention_norms: Tensor | None = None

    def report_routing(self, routing: Sequence[RoutingDecision], lengths: Tensor, aux_loss: Tensor) -> None:
        """Show the decisions to the observer; in training, hand the loss to the model as NeMo's "adapter_loss".

        In `training_step` the model adds the losses registered under this name to its own loss, logs and clears them.
        """
        if self.routing_observer is not None:
            self.routing_observer(routing, lengths)
        if self.training and aux_loss.requires_grad:
            guid = getattr(self, "model_guid", None)
            self.set_access_enabled(access_enabled=True, guid=guid)
            self.register_accessible_tensor(name="adapter_loss", tensor=aux_loss)


class RegisteredEncoder(NeuralModule, StreamingEncoder, Exportable, EncoderMixin):
    """Any encoder of sigmel's registry, also of other packages, where NeMo expects an encoder.

    In training an encoder's `aux_loss` (load balancing), already weighted, goes to the model as NeMo's "adapter_loss",
    which every stock speech model adds to its own loss and logs. The hybrid RNN-T/CTC models of NeMo 3 add this loss
    to the RNN-T loss before they mix in CTC, so that its weight there is (1 - ctc_loss_weight).

    An encoder with `step`, `initial_state` and a `chunk_size` streams through NeMo's cache-aware interface. The caches
    hold the past features and frames that the encoder needs, so that chunks do not overlap and no frames are dropped.

    Args:
        encoder: a name in the registry; `sigmel list` prints the names.
        feat_in: features a frame.
        conf: the other keyword arguments of the encoder. Default: none.

    Raises:
        SigmelError: an unknown name, or an option that is missing or wrong.
    """

    def __init__(self, encoder: str, feat_in: int, conf: Mapping[str, Any] | None = None):
        super().__init__()
        self.core = registry.build("encoder", encoder, input_size=feat_in, **(conf or {}))
        self._feat_in = feat_in
        self._feat_out = self.core.output_size()
        self.subsampling_factor = self.core.subsampling_factor
        self.export_cache_support = False
        self.streaming_cfg: CacheAwareStreamingConfig | None = None
        if getattr(self.core, "chunk_size", None) is not None:
            self.setup_streaming_params()

    @property
    def input_types(self) -> OrderedDict[str, NeuralType]:
        """The inputs of `forward`."""
        return OrderedDict(
            audio_signal=NeuralType(("B", "D", "T"), SpectrogramType()),
            length=NeuralType(tuple("B"), LengthsType(), optional=True),
            cache_last_channel=NeuralType(("D", "B", "T", "D"), ChannelType(), optional=True),
            cache_last_time=NeuralType(("D", "B", "D", "T"), ChannelType(), optional=True),
            cache_last_channel_len=NeuralType(tuple("B"), LengthsType(), optional=True),
            bypass_pre_encode=NeuralType((), BoolType(), optional=True),
        )

    @property
    def output_types(self) -> OrderedDict[str, NeuralType]:
        """The outputs of `forward`; caches are returned if caches are given."""
        return OrderedDict(
            outputs=NeuralType(("B", "D", "T"), AcousticEncodedRepresentation()),
            encoded_lengths=NeuralType(tuple("B"), LengthsType()),
            cache_last_channel_next=NeuralType(("D", "B", "T", "D"), ChannelType(), optional=True),
            cache_last_time_next=NeuralType(("D", "B", "D", "T"), ChannelType(), optional=True),
            cache_last_channel_next_len=NeuralType(tuple("B"), LengthsType(), optional=True),
        )

    @typecheck()
    def forward(
        self,
        audio_signal: Tensor,
        length: Tensor | None = None,
        cache_last_channel: Tensor | None = None,
        cache_last_time: Tensor | None = None,
        cache_last_channel_len: Tensor | None = None,
        bypass_pre_encode: bool = False,
    ) -> tuple[Tensor, ...]:
        """Encode utterances, or, given caches, the next chunk of each stream.

        Args:
            audio_signal: (B, F, T) features.
            length: (B,) how many of the T frames exist. Default: all.
            cache_last_channel, cache_last_time, cache_last_channel_len: from `get_initial_cache_state` or from the
                call before. Default: None, no streaming.
            bypass_pre_encode: must be False, since there is no separate pre-encoder. Default: False.

        Returns:
            (B, D, T') and its (B,) int64 lengths; then the three caches, if caches were given.

        Raises:
            SigmelError: features of another size than feat_in; some of the caches, but not all.
        """
        if bypass_pre_encode:
            raise SigmelError("bypass_pre_encode: True is not supported by sigmel's encoders")
        if audio_signal.shape[1] != self._feat_in:
            raise SigmelError(
                f"feat_in: {self._feat_in}, but audio_signal is {tuple(audio_signal.shape)}, not (batch, feat_in, "
                "frames); set feat_in to the preprocessor's number of features"
            )
        features = audio_signal.transpose(1, 2)  # (B, T, F)
        if length is None:
            length = torch.full(features.shape[:1], features.shape[1], device=features.device)
        caches = [x for x in (cache_last_channel, cache_last_time, cache_last_channel_len) if x is not None]
        if caches:
            if len(caches) != 3:
                raise SigmelError(
                    "cache_last_channel, cache_last_time, cache_last_channel_len: give all three, or none"
                )
            return self._stream(features, length, (caches[0], caches[1], caches[2]))
        output = self.core(features, length)
        self.attention_norms = getattr(output, "attention_norms", None)
        if getattr(output, "routing", ()):
            self.report_routing(output.routing, output.lengths, output.aux_loss)
        return output[0].transpose(1, 2), output[1]

    def _stream(self, features: Tensor, length: Tensor, caches: Caches) -> tuple[Tensor, ...]:
        state = unpack(caches, template=self.core.initial_state(1))
        hidden, state = self.core.step(features, state, length)
        encoded = (length + self.subsampling_factor - 1) // self.subsampling_factor
        return hidden.transpose(1, 2), encoded, *pack(state)

    def setup_streaming_params(self, chunk_size: int | None = None, shift_size: int | None = None) -> None:
        """Set `streaming_cfg`, by which NeMo's streaming code cuts the input.

        Args:
            chunk_size: encoder frames a call, a multiple of the encoder's own chunk_size; a larger number costs
                latency, not accuracy. Default: the encoder's own.
            shift_size: must be the same number as chunk_size, since chunks do not overlap. Default: chunk_size.

        Raises:
            SigmelError: the encoder cannot stream, or not in such chunks.
        """
        unit = getattr(self.core, "chunk_size", None)
        if unit is None:
            raise SigmelError("chunk_size: an encoder with the full context cannot stream; set chunk_size")
        frames = unit if chunk_size is None else chunk_size
        if frames < 1 or frames % unit:
            raise SigmelError(f"chunk_size: {frames} is no multiple of the encoder's own, {unit}")
        if shift_size not in (None, frames):
            raise SigmelError(f"shift_size: {shift_size} must equal chunk_size, {frames}")
        self.streaming_cfg = CacheAwareStreamingConfig(
            chunk_size=frames * self.subsampling_factor,
            shift_size=frames * self.subsampling_factor,
            valid_out_len=frames,
            last_channel_cache_size=-1 if self.core.left_context is None else self.core.left_context,
        )

    def get_initial_cache_state(
        self,
        batch_size: int = 1,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        max_dim: int = 0,
    ) -> Caches:
        """The caches of streams that have not begun.

        Args:
            batch_size: B.
            dtype, device: of the caches. Default: those of the encoder.
            max_dim: ignored; with this argument NeMo's export asks for caches full of noise.
        """
        channel, time, count = pack(self.core.initial_state(batch_size))
        return channel.to(device, dtype), time.to(device, dtype), count.to(device)

    def streaming_post_process(
        self, rets: tuple[Tensor, ...], keep_all_outputs: bool = True
    ) -> tuple[Tensor | None, ...]:
        """The five outputs of a streaming step; no frames have to be dropped."""
        return (*rets, None, None, None) if len(rets) == 2 else rets

    def input_example(self, max_batch: int = 1, max_dim: int = 256) -> tuple[Tensor, ...]:
        """Random features and their lengths, and caches if caches are exported."""
        device = next(self.parameters()).device
        if not self.export_cache_support:
            features = torch.randn(max_batch, self._feat_in, max_dim, device=device)
            return features, torch.full((max_batch,), max_dim, device=device)
        assert self.streaming_cfg is not None  # made by set_export_config, which asks for caches
        frames = self.streaming_cfg.chunk_size
        features = torch.randn(max_batch, self._feat_in, frames, device=device)
        return features, torch.full((max_batch,), frames, device=device), *self.get_initial_cache_state(max_batch)

    @property
    def disabled_deployment_input_names(self) -> set[str]:
        """Inputs that an exported graph does not have."""
        caches = {name for name in self.input_types if name.startswith("cache")}
        return {"bypass_pre_encode"} | (set() if self.export_cache_support else caches)

    @property
    def disabled_deployment_output_names(self) -> set[str]:
        """Outputs that an exported graph does not have."""
        return set() if self.export_cache_support else {name for name in self.output_types if name.startswith("cache")}


@flat_options(core.OmniRouterEncoder, without=["input_size"])
class OmniRouterEncoder(RegisteredEncoder):
    """`sigmel.models.encoder.OmniRouterEncoder` where NeMo expects an encoder.

    The arguments are those of the model, except that NeMo says `feat_in` for `input_size`.

    Args:
        feat_in: features a frame. Default: 80.
        **conf: see `sigmel.models.encoder.OmniRouterEncoder`.
    """

    def __init__(self, feat_in: int = 80, **conf: Any):
        super().__init__("omni_router", feat_in, conf)
