"""NeMo's own Conformer with routed experts in place of its second feed-forward, and a choice of attention."""

from __future__ import annotations

from typing import Any

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.modules import ConformerEncoder
from omegaconf import OmegaConf, open_dict
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.flat_options import check_choice, flat_options, split_options
from sigmel.hosts.nemo.attention import use_sigmoid_attention
from sigmel.hosts.nemo.encoder import EncoderMixin
from sigmel.layers.routed_feed_forward import route_layers, take_routing
from sigmel.layers.routing import Routing
from sigmel.models.upcycling import UPCYCLED


@flat_options(ConformerEncoder, Routing)
class OmniRouterConformerEncoder(ConformerEncoder, EncoderMixin):
    """NeMo's ConformerEncoder whose layers have routed experts as their second feed-forward.

    It keeps all that NeMo's encoder can do (cache-aware streaming, local attention, export), its checkpoints and its
    arguments, to which the arguments below are added. The dropout inside the replaced feed-forward is not kept. The
    checkpoint of a dense encoder loads into this one, see `RoutedFeedForward`; so NeMo's `init_from_nemo_model` starts
    from a dense model, and with normalize_gates the outputs are the same at first.

    Args:
        *args: see `nemo.collections.asr.modules.ConformerEncoder`.
        attention: "softmax", NeMo's, or "sigmoid", see `sigmel.hosts.nemo.attention`. Default: "softmax".
        **options: of NeMo's encoder, and of `sigmel.layers.routing.Routing`.

    Raises:
        SigmelError: options that are unknown or contradict each other, by name.
    """

    def __init__(self, *args: Any, attention: str = "softmax", **options: Any):
        check_choice("attention", attention, ("softmax", "sigmoid"))
        routing, conformer = split_options(options, Routing)
        super().__init__(*args, **conformer)
        self.attention, self.routing = attention, routing
        linears = {"linears": ("linear1", "linear2"), "activation": "silu"}
        self.routers = route_layers(self.layers, "feed_forward2", routing, self.d_model, _pad_mask, **linears)
        if attention == "sigmoid":
            for layer in self.layers:
                use_sigmoid_attention(layer)
        self._measure_attention()

    def _measure_attention(self) -> None:
        for layer in self.layers:
            layer.self_attn.register_forward_hook(_measure, with_kwargs=True)

    def forward_internal(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """See ConformerEncoder.forward_internal, which every call of the encoder comes to."""
        outputs = super().forward_internal(*args, **kwargs)
        feed_forwards = (layer.feed_forward2 for layer in self.layers)
        decisions, aux_loss = take_routing(feed_forwards, self.routing, self.training)
        if decisions:
            self.report_routing(decisions, outputs[1], aux_loss)
        # A frozen layer, which is in eval mode, measures nothing.
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


def _pad_mask(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """See `sigmel.layers.routed_feed_forward.route_layers`."""
    return kwargs["pad_mask"]


@torch.no_grad()
def _measure(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of an attention: the 2-norm of the output, mean over the frames that exist."""
    if not attention.training:
        return
    norm = (output[0] if isinstance(output, tuple) else output).float().norm(dim=-1)  # (B, T)
    mask, pad_mask = kwargs.get("mask"), kwargs.get("pad_mask")  # true where a frame does not see, or does not exist
    if mask is not None:
        pad_mask = mask.all(-1)
    attention.norm = norm.mean() if pad_mask is None else norm[~pad_mask].mean()


def upcycle(model: ASRModel, **routing: Any) -> ASRModel:
    """Give a dense model experts, each a copy of the dense feed-forward, so that its outputs are the same at first.

    The outputs are the same because a frame's gates are normalised to sum to 1; see `sigmel.models.upcycling`. The
    model is changed in place, with its configuration, so that it can be saved, restored and trained like any other;
    set up its optimizer afterwards.

    Args:
        model: a NeMo model whose encoder is a ConformerEncoder.
        **routing: options of `OmniRouterConformerEncoder`: routing, experts, top_k, expert_layers, ...

    Returns:
        The same model.

    Raises:
        SigmelError: the encoder is no plain ConformerEncoder, or an option is wrong.
    """
    if type(model.encoder) is not ConformerEncoder:
        raise SigmelError(
            f"upcycle: the model's encoder must be a ConformerEncoder, not {type(model.encoder).__name__}"
        )
    return _rebuild(model, {**UPCYCLED, **routing}, new="routers.")


def swap_attention(model: ASRModel) -> ASRModel:
    """Give a model with a Conformer sigmoid attention, and keep all its weights.

    The outputs are different then, so that the model must be trained on. The model is changed in place, with its
    configuration, so that it can be saved, restored and trained like any other; set up its optimizer afterwards.

    Args:
        model: a NeMo model whose encoder is a ConformerEncoder, or an `OmniRouterConformerEncoder`.

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
    """Replace a model's encoder by our Conformer with the same weights, except that parameters under `new` are new."""
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
