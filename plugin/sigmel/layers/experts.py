"""The feed-forward of a layer: dense, or a feed-forward for each expert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sigmel.flat_options import check_choice
from sigmel.layers.dropout import Dropout
from sigmel.layers.routing import Router, RoutingDecision
from sigmel.ops import expert_mlp
from sigmel.ops.experts.reference import ACTIVATIONS, inner_size


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear.

    Args:
        d_model: D.
        ff_size: F.
        activation: a key of `ACTIVATIONS`: "relu", "gelu", "silu", or gated "reglu", "geglu", "swiglu".
        dropout: probability, after the activation.
    """

    def __init__(self, d_model: int, ff_size: int, activation: str, dropout: float):
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.linear1 = nn.Linear(d_model, inner_size(ff_size, activation))
        self.linear2 = nn.Linear(ff_size, d_model)
        self.dropout = Dropout(dropout)

    def forward(self, u: Tensor) -> Tensor:
        """(B, T, D) from (B, T, D)."""
        return self.linear2(self.dropout(self.activation(self.linear1(u))))


class ExpertFeedForward(nn.Module):
    """A feed-forward for each expert, to which a router, which is not owned here, sends the frames.

    Args:
        d_model: D.
        ff_size: F, of one expert.
        num_experts: E.
        activation: see `FeedForward`.
        gradient_sharing: 0 to 1, how much of the gradient of an expert is the mean of all experts' gradients; the
            rest is the expert's own. An expert sees one of E frames; so it learns from all frames what the experts
            have in common, as a dense feed-forward does. This is for experts that begin as copies, see
            `sigmel.models.upcycling`; with 1 they would stay copies. Default: 0.
    """

    def __init__(self, d_model: int, ff_size: int, num_experts: int, activation: str, gradient_sharing: float = 0.0):
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation = activation
        self.gradient_sharing = gradient_sharing
        inner = inner_size(ff_size, activation)
        self.w1 = nn.Parameter(torch.empty(num_experts, inner, d_model))
        self.b1 = nn.Parameter(torch.empty(num_experts, inner))
        self.w2 = nn.Parameter(torch.empty(num_experts, d_model, ff_size))
        self.b2 = nn.Parameter(torch.empty(num_experts, d_model))
        for weight, bias in ((self.w1, self.b1), (self.w2, self.b2)):
            bound = weight.shape[-1] ** -0.5  # as nn.Linear
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, u: Tensor, router: Router, valid: Tensor) -> tuple[Tensor, RoutingDecision]:
        """Route and transform u (B, T, D); frames where `valid` (B, T) is false come out as zero."""
        decision = router(u)
        experts = torch.where(valid[..., None], decision.experts, -1)
        out = self.mlp(u.flatten(0, 1), experts.flatten(0, 1), decision.gates.flatten(0, 1))
        return out.view_as(u), decision

    def mlp(self, x: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        """(N, D) from frames (N, D), their experts (N, K), where -1 is no expert, and gates (N, K)."""
        w1, b1, w2, b2 = self._weights()
        return expert_mlp(x, experts, gates, w1, b1, w2, b2, self.activation)

    def _weights(self) -> list[Tensor]:
        """w1, b1, w2, b2 as `expert_mlp` takes them."""
        weights = [self._own(weight) for weight in (self.w1, self.b1, self.w2, self.b2)]
        if self.training and self.gradient_sharing:
            weights = [_SharedGradient.apply(weight, self.gradient_sharing, self._mean) for weight in weights]
        return weights

    def _own(self, weight: Tensor) -> Tensor:
        """The experts of a parameter that this process holds: all."""
        return weight

    def _mean(self, grads: Tensor) -> Tensor:
        """(1, ...) mean over all experts of the gradients (E, ...) of the experts that this process holds."""
        return grads.mean(0, keepdim=True)

    def idle_parameters(self, top_k: int) -> int:
        """The number of parameters that a frame does not use when it goes to `top_k` experts."""
        return sum(p.numel() // p.shape[0] * (p.shape[0] - top_k) for p in self.parameters())


class _SharedGradient(torch.autograd.Function):
    """The weights of experts, unchanged, with gradients as `gradient_sharing` of `ExpertFeedForward` has them."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, share: float, mean: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.share, ctx.mean = share, mean
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.lerp(grad, ctx.mean(grad), ctx.share), None, None
