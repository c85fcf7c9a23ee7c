"""ESPnet's own Conformer and E-Branchformer with routed experts in place of their (second) feed-forward."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, cast

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder, PositionwiseFeedForward
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from torch import Tensor, nn

from sigmel.checkpoints.espnet import ACTIVATIONS, ROUTED, RoutedEncoder
from sigmel.checkpoints.strict import check_when_loaded
from sigmel.errors import SigmelError
from sigmel.layers.routed_feed_forward import RoutedFeedForward, take_routing
from sigmel.layers.routing import Router, build_routers, parse_expert_layers
from sigmel.models.encoder import EncoderOutput


class RoutedEncoderMixin(AbsEncoder):
    """Before an encoder of ESPnet whose layers have a `feed_forward`, it gives them routed experts.

    The encoder keeps all it can do and its arguments, to which the arguments below are added. The dropout inside the
    replaced feed-forward is not kept. The checkpoint of a dense encoder loads into it by ``--init_param``, see
    `RoutedFeedForward`; the routers are new then.

    Args:
        input_size: features a frame.
        routing, experts, top_k, expert_layers, jitter, load_balance_weight, z_loss_weight, normalize_gates,
            gradient_sharing: see `sigmel.models.encoder.OmniRouterEncoder`; the defaults are the same.
        **host: the other arguments of ESPnet's encoder.

    Attributes:
        options: what ESPnet calls it and what stands between the linear layers of its feed-forwards.
        output: see `sigmel.hosts.espnet.encoder.RegisteredEncoder`.

    Raises:
        SigmelError: options that contradict each other, by name.
    """

    options: ClassVar[RoutedEncoder]
    output: EncoderOutput | None = None

    def __init__(
        self,
        input_size: int,
        routing: str = "omni",
        experts: int = 4,
        top_k: int = 1,
        expert_layers: str = "all",
        jitter: float = 0.01,
        load_balance_weight: float = 0.01,
        z_loss_weight: float = 0.0,
        normalize_gates: bool = False,
        gradient_sharing: float = 0.0,
        **host: Any,
    ):
        activation = host.get(self.options.activation, "swish")
        if activation not in ACTIVATIONS:
            raise SigmelError(f"{self.options.activation}: '{activation}' is none of {', '.join(ACTIVATIONS)}")
        super().__init__(input_size, **host)
        self.load_balance_weight = load_balance_weight
        self.z_loss_weight = z_loss_weight
        groups = parse_expert_layers(expert_layers, len(self.encoders), experts)
        self.routers, router_of_layer = build_routers(
            routing, groups, self.output_size(), top_k, jitter, normalize_gates
        )
        for index, router in router_of_layer.items():
            layer = self.encoders[index]
            dense = layer.feed_forward
            if not isinstance(dense, PositionwiseFeedForward):
                raise SigmelError(
                    f"a layer's feed_forward is {type(dense).__name__}, which cannot be routed; set "
                    "positionwise_layer_type: linear and, in an E-Branchformer, use_ffn: true"
                )
            # ESPnet's convolution sees the frames of padding that follow an utterance.
            layer.feed_forward = RoutedFeedForward(
                dense,
                ("w_1", "w_2"),
                ACTIVATIONS[activation],
                cast(Router, self.routers[router]),
                pads=True,
                gradient_sharing=gradient_sharing,
            )
            layer.register_forward_pre_hook(_show_padding)
        check_when_loaded(self, lambda name: "routers." in name or "experts." in name)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Any]:
        """See ESPnet's encoder."""
        hidden, lengths, states = super().forward(*args, **kwargs)
        feed_forwards = [layer.feed_forward for layer in self.encoders]
        routing, aux_loss = take_routing(feed_forwards, self.training, self.load_balance_weight, self.z_loss_weight)
        frames = hidden[0] if isinstance(hidden, tuple) else hidden  # with those of earlier layers beside them
        self.output = EncoderOutput(frames.detach(), lengths, aux_loss, tuple(routing))
        return hidden, lengths, states


def _show_padding(layer: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook of a layer: its feed-forward is not told about padding, and needs to know."""
    _, mask = args  # (B, 1, T), true where a frame exists
    cast(RoutedFeedForward, layer.feed_forward).pad_mask = ~mask[:, 0]


class OmniRouterConformerEncoder(RoutedEncoderMixin, ConformerEncoder):
    """ESPnet's ConformerEncoder with routed experts, see `RoutedEncoderMixin`."""

    options = ROUTED["conformer"]


class OmniRouterEBranchformerEncoder(RoutedEncoderMixin, EBranchformerEncoder):
    """ESPnet's EBranchformerEncoder with routed experts, see `RoutedEncoderMixin`; it needs use_ffn: true."""

    options = ROUTED["e_branchformer"]


ROUTED_ENCODERS = {ConformerEncoder: OmniRouterConformerEncoder, EBranchformerEncoder: OmniRouterEBranchformerEncoder}


def _signature(host: type[nn.Module]) -> inspect.Signature:
    """ESPnet's arguments and ours, which --print_config reads."""
    theirs = inspect.signature(host).parameters
    ours = inspect.signature(RoutedEncoderMixin).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [p.replace(kind=keyword) for p in ours if p.name not in theirs and p.kind is not p.VAR_KEYWORD]
    return inspect.Signature([*theirs.values(), *added])


for _host, _routed in ROUTED_ENCODERS.items():
    _routed.__signature__ = _signature(_host)
