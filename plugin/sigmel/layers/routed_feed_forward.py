"""Experts in the layers of a host's own encoder, which knows neither of routers nor of what they decide."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from sigmel.layers.experts import ExpertFeedForward
from sigmel.layers.routing import Router, RoutingDecision, auxiliary_loss


def expert_copies(state: dict[str, Tensor], prefix: str, linears: tuple[str, str], experts: int) -> dict[str, Tensor]:
    """Take a dense feed-forward out of a state dict: the parameters of experts that are all copies of it.

    Args:
        state: what the feed-forward's parameters are taken out of.
        prefix: of their names.
        linears: the names of its two linear layers; one without bias gives biases of zero.
        experts: E, how many copies.

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
        dense: what it replaces, for the sizes; its dropout is not kept.
        linears: the names of its two linear layers.
        activation: what stands between them, see `sigmel.layers.experts.FeedForward`.
        router: the layer's router. The encoder owns it, so that a shared one is saved once.
        pads: transform frames of padding, too, as the dense feed-forward does: for a host whose frames see those of
            padding beside them. They never count in the loss of the routers. Default: False, they come out as zero.
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
        """What says which expert a frame goes to."""
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


def take_routing(
    feed_forwards: Iterable[nn.Module], training: bool, load_balance_weight: float, z_loss_weight: float
) -> tuple[list[RoutingDecision], Tensor]:
    """Take from those feed-forwards that have experts what they decided in the last forward pass.

    Args:
        feed_forwards: of the layers, first layer first.
        training: whether there is a loss to add.
        load_balance_weight, z_loss_weight: see `sigmel.layers.routing.auxiliary_loss`.

    Returns:
        The decisions, and the weighted loss, summed over layers; 0 outside training.
    """
    decisions, loss = [], torch.zeros(())
    for feed_forward in feed_forwards:
        if isinstance(feed_forward, RoutedFeedForward) and feed_forward.routed is not None:
            decision, valid = feed_forward.routed
            feed_forward.routed = None  # else it would keep the graph until the next call
            decisions.append(decision)
            if training:
                loss = loss + auxiliary_loss(decision, valid, load_balance_weight, z_loss_weight)
    return decisions, loss
