"""NeMo's own Conformer with routed experts in place of its second feed-forward, and a choice of attention."""

from __future__ import annotations

from typing import Any, cast

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.modules import ConformerEncoder
from nemo.collections.asr.parts.submodules.conformer_modules import ConformerLayer
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.hosts.nemo.attention import use_sigmoid_attention
from sigmel.hosts.nemo.watched import WatchedEncoderMixin
from sigmel.layers.routed_feed_forward import RoutedFeedForward, take_routing
from sigmel.layers.routing import Router, build_routers, parse_expert_layers
from sigmel.models.upcycling import UPCYCLED


class OmniRouterConformerEncoder(ConformerEncoder, WatchedEncoderMixin):
    """NeMo's ConformerEncoder whose layers have routed experts as their second feed-forward.

    It keeps all that NeMo's encoder can do (cache-aware streaming, local attention, export), its checkpoints and its
    arguments, to which the arguments below are added. The dropout inside the replaced feed-forward is not kept. The
    checkpoint of a dense one loads into it, see `RoutedFeedForward`; so NeMo's `init_from_nemo_model` starts from one.

    Args:
        *args, **conformer: see `nemo.collections.asr.modules.ConformerEncoder`.
        routing, experts, top_k, expert_layers, jitter, load_balance_weight, z_loss_weight, normalize_gates,
            gradient_sharing: see `sigmel.models.encoder.OmniRouterEncoder`; the defaults are the same. A model that
            starts from a dense one is equal to it at first with normalize_gates only.
        attention: "softmax", NeMo's, or "sigmoid", see `sigmel.hosts.nemo.attention`. Default: "softmax".

    Raises:
        SigmelError: options that are unknown or contradict each other, by name.
    """

    def __init__(
        self,
        *args: Any,
        routing: str = "omni",
        experts: int = 4,
        top_k: int = 1,
        expert_layers: str = "all",
        jitter: float = 0.01,
        load_balance_weight: float = 0.01,
        z_loss_weight: float = 0.0,
        normalize_gates: bool = False,
        gradient_sharing: float = 0.0,
        attention: str = "softmax",
        **conformer: Any,
    ):
        if attention not in ("softmax", "sigmoid"):
            raise SigmelError(f"attention: '{attention}' is none of softmax, sigmoid")
        super().__init__(*args, **conformer)
        self.attention = attention
        self.load_balance_weight = load_balance_weight
        self.z_loss_weight = z_loss_weight
        groups = parse_expert_layers(expert_layers, self.n_layers, experts)
        self.routers, router_of_layer = build_routers(routing, groups, self.d_model, top_k, jitter, normalize_gates)
        for index, router in router_of_layer.items():
            layer = self.layers[index]
            layer.feed_forward2 = RoutedFeedForward(
                layer.feed_forward2,
                ("linear1", "linear2"),
                "silu",
                cast(Router, self.routers[router]),
                gradient_sharing=gradient_sharing,
            )
            layer.register_forward_pre_hook(_show_padding, with_kwargs=True)
        if attention == "sigmoid":
            for layer in self.layers:
                use_sigmoid_attention(layer)
        self._measure_attention()

    def _measure_attention(self) -> None:
        for layer in self.layers:
            layer.self_attn.register_forward_hook(_measure, with_kwargs=True)

    def forward_internal(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """See ConformerEncoder.forward_internal, which all its ways of being called lead to."""
        outputs = super().forward_internal(*args, **kwargs)
        feed_forwards = [layer.feed_forward2 for layer in self.layers]
        routing, aux_loss = take_routing(feed_forwards, self.training, self.load_balance_weight, self.z_loss_weight)
        if routing:
            self.report_routing(routing, outputs[1], aux_loss)
        # A layer that is frozen, in eval mode, measures nothing.
        measured = self.training and all(layer.self_attn.training for layer in self.layers)
        self.attention_norms = torch.stack([layer.self_attn.norm for layer in self.layers]) if measured else None
        return outputs

    def change_attention_model(self, *args: Any, **kwargs: Any) -> None:
        """See ConformerEncoder.change_attention_model.

        Raises:
            SigmelError: with sigmoid attention, which NeMo would replace.
        """
        if self.attention != "softmax":
            raise SigmelError(f"change_attention_model: NeMo would replace attention: {self.attention}")
        super().change_attention_model(*args, **kwargs)
        self._measure_attention()


def _show_padding(layer: ConformerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Forward pre-hook of a layer: its feed-forward is not told about padding, and needs to know."""
    layer.feed_forward2.pad_mask = kwargs["pad_mask"]


@torch.no_grad()
def _measure(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of an attention: the 2-norm of what it gives, mean over the frames that exist."""
    if not attention.training:
        return
    norm = (output[0] if isinstance(output, tuple) else output).float().norm(dim=-1)  # (B, T)
    mask, pad_mask = kwargs.get("mask"), kwargs.get("pad_mask")  # true where a frame does not see, or does not exist
    if mask is not None:
        pad_mask = mask.all(-1)
    attention.norm = norm.mean() if pad_mask is None else norm[~pad_mask].mean()


def upcycle(model: ASRModel, **routing: Any) -> ASRModel:
    """Give a dense model experts, each a copy of the dense feed-forward, so that its outputs are the same at first.

    Equality holds because the gates are normalised: a frame's gates sum to 1 whatever the router says. The router
    learns nonetheless, as the sum counts as a constant in the gradient. The model is changed in place, its
    configuration too, so that it can be saved, restored and trained like any other; set up its optimizer afterwards.

    Args:
        model: a NeMo model whose encoder is a ConformerEncoder.
        **routing: routing, experts, top_k, expert_layers, ...: see `OmniRouterConformerEncoder`.

    Returns:
        The same model.

    Raises:
        SigmelError: the encoder is no plain ConformerEncoder, or refuses an option.
    """
    if type(model.encoder) is not ConformerEncoder:
        raise SigmelError(
            f"upcycle: the model's encoder must be a ConformerEncoder, not {type(model.encoder).__name__}"
        )
    return _rebuild(model, {**UPCYCLED, **routing}, new="routers.")


def swap_attention(model: ASRModel) -> ASRModel:
    """Give a model with a Conformer sigmoid attention, keeping all its weights.

    What it computes is different then: train it on. The model is changed in place, its configuration too, so that it
    can be saved, restored and trained like any other; set up its optimizer afterwards.

    Args:
        model: a NeMo model whose encoder is a ConformerEncoder, or ours with routed experts.

    Returns:
        The same model.

    Raises:
        SigmelError: the encoder is no Conformer, or has local attention.
    """
    if type(model.encoder) not in (ConformerEncoder, OmniRouterConformerEncoder):
        raise SigmelError(
            f"swap_attention: the encoder must be a ConformerEncoder, not {type(model.encoder).__name__}"
        )
    routing = {} if type(model.encoder) is OmniRouterConformerEncoder else {"routing": "dense"}
    return _rebuild(model, {"attention": "sigmoid", **routing}, new="layers.")


def _rebuild(model: ASRModel, options: dict[str, Any], new: str) -> ASRModel:
    """The model with our Conformer, whose parameters under `new` may be others than the old encoder had."""
    old = model.encoder
    conf = OmegaConf.to_container(model.cfg.encoder, resolve=True)
    conf |= {"_target_": "sigmel.hosts.nemo.OmniRouterConformerEncoder", **options}
    encoder = model.from_config_dict(OmegaConf.create(conf))
    fresh = {name: value for name, value in encoder.state_dict().items() if name.startswith(new)}
    encoder.load_state_dict(fresh | old.state_dict())
    weight = next(old.parameters())
    model.encoder = encoder.to(weight.device, weight.dtype).train(old.training)
    with open_dict(model.cfg):
        model.cfg.encoder = conf
    return model
