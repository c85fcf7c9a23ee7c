"""ESPnet's own Conformer and E-Branchformer with routed experts in place of their (second) feed-forward."""

from __future__ import annotations

from typing import Any, ClassVar

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder, PositionwiseFeedForward
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from torch import Tensor

from sigmel.checkpoints.espnet import ACTIVATIONS, ROUTED, RoutedEncoder
from sigmel.checkpoints.strict_loading import check_when_loaded
from sigmel.errors import SigmelError
from sigmel.flat_options import check_choice, flat_options, split_options
from sigmel.layers.routed_feed_forward import route_layers, take_routing
from sigmel.layers.routing import Routing
from sigmel.models.encoder import EncoderOutput


class RoutedEncoderMixin(AbsEncoder):
    """Mix-in before an encoder of ESPnet whose layers have a `feed_forward`, which gives them routed experts.

    The encoder keeps all it can do and its arguments, to which the arguments below are added. The dropout inside the
    replaced feed-forward is not kept. The checkpoint of a dense encoder loads into it by `--init_param`, see
    `RoutedFeedForward`; the routers are new then.

    Args:
        input_size: features a frame.
        **options: the other arguments of ESPnet's encoder, and those of `sigmel.layers.routing.Routing`.

    Attributes:
        options: the name of the encoder in ESPnet, and of its option for the activation of feed-forwards.
        output: see `sigmel.hosts.espnet.encoder.RegisteredEncoder`.

    Raises:
        SigmelError: options that contradict each other, by name.
    """

    options: ClassVar[RoutedEncoder]
    output: EncoderOutput | None = None

    def __init__(self, input_size: int, **options: Any):
        routing, host = split_options(options, Routing)
        activation = host.get(self.options.activation, "swish")
        check_choice(self.options.activation, activation, ACTIVATIONS)
        super().__init__(input_size, **host)
        self.routing = routing
        for layer in self.encoders if routing.routing != "dense" else ():
            if not isinstance(layer.feed_forward, PositionwiseFeedForward):
                raise SigmelError(
                    f"a layer's feed_forward is {type(layer.feed_forward).__name__}, which cannot be routed; set "
                    "positionwise_layer_type: linear and, in an E-Branchformer, use_ffn: true"
                )
        self.routers = route_layers(
            self.encoders,
            "feed_forward",
            routing,
            self.output_size(),
            _pad_mask,
            linears=("w_1", "w_2"),
            activation=ACTIVATIONS[activation],
            pads=True,  # ESPnet's convolution sees the frames of padding that follow an utterance
        )
        check_when_loaded(self, lambda name: "routers." in name or "experts." in name)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, Any]:
        """See ESPnet's encoder."""
        hidden, lengths, states = super().forward(*args, **kwargs)
        feed_forwards = (layer.feed_forward for layer in self.encoders)
        decisions, aux_loss = take_routing(feed_forwards, self.routing, self.training)
        frames = hidden[0] if isinstance(hidden, tuple) else hidden  # with those of earlier layers beside them
        self.output = EncoderOutput(frames.detach(), lengths, aux_loss, decisions)
        return hidden, lengths, states


def _pad_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """See `sigmel.layers.routed_feed_forward.route_layers`."""
    _, mask = args  # (B, 1, T), true where a frame exists
    return ~mask[:, 0]


@flat_options(ConformerEncoder, Routing)
class OmniRouterConformerEncoder(RoutedEncoderMixin, ConformerEncoder):
    """ESPnet's ConformerEncoder with routed experts, see `RoutedEncoderMixin`."""

    options = ROUTED["conformer"]


@flat_options(EBranchformerEncoder, Routing)
class OmniRouterEBranchformerEncoder(RoutedEncoderMixin, EBranchformerEncoder):
    """ESPnet's EBranchformerEncoder with routed experts, see `RoutedEncoderMixin`; it needs use_ffn: true."""

    options = ROUTED["e_branchformer"]
