"""ESPnet's own Conformer with routed experts in place of its feed-forward; of the second one in macaron style."""

from __future__ import annotations

import inspect
from typing import Any, cast

from espnet2.asr.encoder.conformer_encoder import ConformerEncoder, PositionwiseFeedForward
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.hosts.strict import check_when_loaded
from sigmel.layers.routed import RoutedFeedForward, take_routing
from sigmel.layers.routing import Router, build_routers, parse_expert_layers
from sigmel.models.encoder import EncoderOutput
from sigmel.models.espnet_options import CONFORMER_ACTIVATIONS


class OmniRouterConformerEncoder(ConformerEncoder):
    """ESPnet's ConformerEncoder whose layers have routed experts as their (second) feed-forward.

    It keeps all that ESPnet's encoder can do and its arguments, to which the arguments below are added. The dropout
    inside the replaced feed-forward is not kept. The checkpoint of a dense one loads into it by ``--init_param``, see
    `RoutedFeedForward`; the routers are new then.

    Args:
        input_size: features a frame.
        **conformer: see `espnet2.asr.encoder.conformer_encoder.ConformerEncoder`.
        routing, experts, top_k, expert_layers, jitter, load_balance_weight, z_loss_weight, normalize_gates: see
            `sigmel.models.encoder.OmniRouterEncoder`; the defaults are the same.

    Attributes:
        output: see `sigmel.hosts.espnet.encoder.RegisteredEncoder`.

    Raises:
        SigmelError: options that contradict each other, by name.
    """

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
        activation_type: str = "swish",
        **conformer: Any,
    ):
        if activation_type not in CONFORMER_ACTIVATIONS:
            raise SigmelError(f"activation_type: '{activation_type}' is none of {', '.join(CONFORMER_ACTIVATIONS)}")
        super().__init__(input_size, activation_type=activation_type, **conformer)
        self.load_balance_weight = load_balance_weight
        self.z_loss_weight = z_loss_weight
        groups = parse_expert_layers(expert_layers, len(self.encoders), experts)
        self.routers, router_of_layer = build_routers(
            routing, groups, self.output_size(), top_k, jitter, normalize_gates
        )
        for index, router in router_of_layer.items():
            layer = self.encoders[index]
            dense, activation = layer.feed_forward, CONFORMER_ACTIVATIONS[activation_type]
            if not isinstance(dense, PositionwiseFeedForward):
                raise SigmelError(f"positionwise_layer_type: only 'linear' can be routed, not {type(dense).__name__}")
            # ESPnet's convolution sees the frames of padding that follow an utterance.
            layer.feed_forward = RoutedFeedForward(
                dense, ("w_1", "w_2"), activation, cast(Router, self.routers[router]), pads=True
            )
            layer.register_forward_pre_hook(_show_padding)
        check_when_loaded(self, lambda name: "routers." in name or "experts." in name)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Any]:
        """See ConformerEncoder.forward."""
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


def _signature() -> inspect.Signature:
    """ESPnet's arguments and ours, which --print_config reads."""
    theirs = inspect.signature(ConformerEncoder).parameters
    ours = inspect.signature(OmniRouterConformerEncoder).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [p.replace(kind=keyword) for p in ours if p.name not in theirs and p.kind is not p.VAR_KEYWORD]
    return inspect.Signature([*theirs.values(), *added])


OmniRouterConformerEncoder.__signature__ = _signature()
