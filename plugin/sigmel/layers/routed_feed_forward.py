"""Experts in the layers of a host's own encoder, which knows nothing of routers and their decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from sigmel.layers.experts import ExpertFeedForward
from sigmel.layers.routing import Router, Routers, Routing, RoutingDecision


def expert_copies(state: dict[str, Tensor], prefix: str, linears: tuple[str, str], experts: int) -> dict[str, Tensor]:
    """Take a dense feed-forward out of a state dict, as the parameters of experts that are all copies of it.

    Args:
        state: the state dict, which loses the parameters of the feed-forward.
        prefix: the beginning of the names of these parameters.
        linears: the names of the two linear layers; a layer without bias gives biases of zero.
        experts: E, the number of copies.

    Returns:
        w1, b1, w2, b2 of an `ExpertFeedForward`, expanded and not copied in memory.
    """
    copies: dict[str, Tensor] = {}
    for number, linear in enumerate(linears, start=1):
        weight = state.pop(f"{prefix}{linear}.weight")
        bias = state.pop(f"{prefix}{linear}.bias", weight.new_zeros(weight.shape[0]))
        copies |= {f"w{number}": weight.expand(experts, -1, -1), f"b{number}": bias.expand(experts, -1)}
    return copies


class RoutedFeedForward(nn.Module):
    """Experts where a host's layer had a feed-forward.

    A state dict of the dense layer loads into it too: every expert becomes a copy of the dense feed-forward
    ("upcycling", arXiv 2212.05055).

    Args:
        dense: the feed-forward that is replaced, for the sizes; its dropout is not kept.
        linears: the names of the two linear layers of `dense`.
        activation: stands between the linear layers, see `sigmel.layers.experts.FeedForward`.
        router: the layer's router. The encoder owns it, so that a shared router is saved once.
        pads: transform frames of padding as well, as the dense feed-forward does, for a host in which the last frames
            of an utterance see the padding after them. Padding never counts in the loss of the routers. Default:
            False, frames of padding come out as zero.
        gradient_sharing: see `sigmel.layers.experts.ExpertFeedForward`.

    Attributes:
        pad_mask: (B, T) bool, true at padding; the encoder sets it before each call. None: there is no padding.
        routed: the decision of the last call and its (B, T) valid frames, until `take_routing` takes it.
    """

    def __init__(
        self,
        dense: nn.Module,
        linears: tuple[str, str],
        activation: str,
        router: Router,
        pads: bool = False,
        gradient_sharing: float = 0.0,
    ):
        super().__init__()
        first = cast(nn.Linear, getattr(dense, linears[0]))
        sizes = first.in_features, first.out_features, router.num_experts
        self.experts = ExpertFeedForward(*sizes, activation, gradient_sharing)
        self.linears = linears
        self.pads = pads
        self._router = (router,)  # inside a tuple it is no submodule of this layer
        self.pad_mask: Tensor | None = None
        self.routed: tuple[RoutingDecision, Tensor] | None = None

    @property
    def router(self) -> Router:
        """The router of this layer."""
        return self._router[0]

    def forward(self, u: Tensor) -> Tensor:
        """(B, T, D) from (B, T, D)."""
        valid = u.new_ones(u.shape[:2], dtype=torch.bool) if self.pad_mask is None else ~self.pad_mask
        y, decision = self.experts(u, self.router, torch.ones_like(valid) if self.pads else valid)
        self.pad_mask, self.routed = None, (decision, valid)
        return y

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}{self.linears[0]}.weight" in state_dict:
            copies = expert_copies(state_dict, prefix, self.linears, self.experts.w1.shape[0])
            state_dict.update({f"{prefix}experts.{name}": value for name, value in copies.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


# What a forward pre-hook of a layer is called with, its arguments, becomes the mask of padding (B, T).
PadMask = Callable[[tuple[Any, ...], dict[str, Any]], Tensor]


def route_layers(
    layers: Iterable[nn.Module],
    name: str,
    routing: Routing,
    d_model: int,
    pad_mask: PadMask,
    **feed_forward: Any,
) -> Routers:
    """Give the layers of a host's encoder routed experts in place of a feed-forward, and return their routers.

    Args:
        layers: of the encoder, first layer first.
        name: of the feed-forward in a layer.
        routing: which layers have experts, and how these share routers.
        d_model: D.
        pad_mask: (B, T) bool, true at padding, from the positional and keyword arguments that a layer is called with;
            its feed-forward is not told which frames are padding, and needs to know.
        **feed_forward: linears, activation and pads of `RoutedFeedForward`.
    """
    layers = list(layers)
    routers = routing.build_routers(len(layers), d_model)
    for number, layer in enumerate(layers):
        if (router := routers.of(number)) is None:
            continue
        dense, sharing = getattr(layer, name), routing.gradient_sharing
        setattr(layer, name, RoutedFeedForward(dense, router=router, gradient_sharing=sharing, **feed_forward))
        layer.register_forward_pre_hook(partial(_show_padding, name, pad_mask), with_kwargs=True)
    return routers


def _show_padding(
    name: str, pad_mask: PadMask, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    getattr(layer, name).pad_mask = pad_mask(args, kwargs)


def take_routing(
    feed_forwards: Iterable[nn.Module], routing: Routing, training: bool
) -> tuple[tuple[RoutingDecision, ...], Tensor]:
    """Take from those feed-forwards that have experts what their routers decided in the last forward pass.

    Args:
        feed_forwards: of the layers, first layer first.
        routing: what the losses are weighted by.
        training: whether there is a loss to add.

    Returns:
        The decisions, and the weighted loss, summed over layers; 0 outside training.
    """
    decisions, loss = [], torch.zeros(())
    for feed_forward in feed_forwards:
        if isinstance(feed_forward, RoutedFeedForward) and feed_forward.routed is not None:
            decision, valid = feed_forward.routed
            feed_forward.routed = None  # else the tensors of this pass would stay alive until the next pass
            decisions.append(decision)
            if training:
                loss = loss + routing.loss(decision, valid)
    return tuple(decisions), loss
