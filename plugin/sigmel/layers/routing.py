"""Routers, which send each frame to experts: their options, how layers share them, and the losses on them.

Dense, Switch, Omni-router and PathMoE differ in how many layers share a router; everything else is the same code. A
router decides again at each layer, from that layer's own input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.errors import SigmelError


class RoutingDecision(NamedTuple):
    """A router's decision at one layer.

    Attributes:
        logits: (B, T, E) float32 scores.
        experts: (B, T, K) int64 chosen experts, best first.
        gates: (B, T, K) float32 weights of the chosen experts: their probabilities, which sum to 1 over all E experts,
            or over the K chosen ones, see `Router`.
        total: function that sums a tensor over the processes whose frames make one batch, differentiably; None if
            there is one process.
    """

    logits: Tensor
    experts: Tensor
    gates: Tensor
    total: Callable[[Tensor], Tensor] | None = None


class Router(nn.Module):
    """`softmax(W u + b)` over the experts, of which the `top_k` best are chosen (arXiv 2507.05724; 2101.03961).

    Scores are float32 whatever the model's dtype, since a rounded score changes the choice.

    Args:
        d_model: D.
        num_experts: E.
        top_k: K.
        jitter: in training the input is multiplied by noise, uniform in [1 - jitter, 1 + jitter].
        normalize_gates: divide the gates by their sum over K, so that copies of a dense feed-forward give the output
            of that feed-forward. The sum counts as a constant in the gradient: otherwise a top-1 router would learn
            nothing.
    """

    def __init__(
        self, d_model: int, num_experts: int, top_k: int = 1, jitter: float = 0.0, normalize_gates: bool = False
    ):
        super().__init__()
        self.top_k = top_k
        self.jitter = jitter
        self.normalize_gates = normalize_gates
        self.linear = nn.Linear(d_model, num_experts)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    @property
    def num_experts(self) -> int:
        """The number of experts, E."""
        return self.linear.out_features

    def forward(self, u: Tensor) -> RoutingDecision:
        """Route frames (B, T, D), the input of the feed-forward after its layer norm."""
        if self.training and self.jitter:
            u = u * torch.empty_like(u).uniform_(1 - self.jitter, 1 + self.jitter)
        with torch.autocast(u.device.type, enabled=False):
            logits = F.linear(u.float(), self.linear.weight.float(), self.linear.bias.float())
        gates, experts = logits.softmax(-1).topk(self.top_k, dim=-1)
        if self.normalize_gates:
            gates = gates / gates.detach().sum(-1, keepdim=True)
        return RoutingDecision(logits, experts, gates)


class ExpertGroup(NamedTuple):
    """Layers that may share a router, and the number of experts that each of them has."""

    layers: tuple[int, ...]
    experts: int


def parse_expert_layers(spec: str, num_layers: int, experts: int) -> list[ExpertGroup]:
    """The layers that have experts, in groups.

    Args:
        spec: "all"; "every:n", the n-th, 2n-th, ... layer; or groups "layers x experts" that follow each other and
            make up the whole stack, such as "4x2-4x4" for eight layers (arXiv 2507.05724).
        num_layers: layers of the stack.
        experts: experts of a layer, unless `spec` has groups.

    Raises:
        SigmelError: `spec` has another form, or does not fit the stack.
    """
    if spec == "all":
        return [ExpertGroup(tuple(range(num_layers)), experts)]
    if match := re.fullmatch(r"every:([1-9]\d*)", spec):
        n = int(match[1])
        if n > num_layers:
            raise SigmelError(f"expert_layers: '{spec}' leaves no layer with experts in a stack of {num_layers}")
        return [ExpertGroup(tuple(range(n - 1, num_layers, n)), experts)]
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*(-[1-9]\d*x[1-9]\d*)*", spec):
        raise SigmelError(f"expert_layers: '{spec}' is not 'all', 'every:<n>' or groups such as '4x2-4x4'")
    groups, first = [], 0
    for size, count in (map(int, group.split("x")) for group in spec.split("-")):
        groups.append(ExpertGroup(tuple(range(first, first + size)), count))
        first += size
    if first != num_layers:
        raise SigmelError(f"expert_layers: the groups of '{spec}' make {first} layers; the stack has {num_layers}")
    return groups


class Routers(nn.ModuleList):
    """The distinct routers of a stack of layers, some of which may share a router.

    Args:
        routers: each router once.
        of_layer: {layer: index of its router}; a layer that is missing is dense.
    """

    def __init__(self, routers: Iterable[Router] = (), of_layer: Mapping[int, int] | None = None):
        super().__init__(routers)
        self._of_layer = dict(of_layer or {})

    def of(self, layer: int) -> Router | None:
        """The router that a layer uses; None for a dense layer."""
        index = self._of_layer.get(layer)
        return None if index is None else cast(Router, self[index])


@dataclass(frozen=True)
class Routing:
    """Options of a stack of layers of which some have routed experts (arXiv 2507.05724; PathMoE: 2603.18297).

    Args:
        routing: "dense" (no experts), "switch" (a router a layer), "omni" (one router for all layers, or for all of a
            group in `expert_layers`) or "path:<k>" (one router for every k consecutive layers). Default: "omni".
        experts: experts of a layer. Default: 4.
        top_k: experts a frame is sent to. Default: 1.
        expert_layers: the layers with experts: "all", "every:<n>", or groups of layers x experts such as "4x2-4x4",
            see `parse_expert_layers`. Default: "all".
        jitter: in training a router's input is multiplied by noise from [1 - jitter, 1 + jitter]. Default: 0.01.
        load_balance_weight: weight of the load-balancing loss, summed over layers; 0 for none. Default: 0.01.
        z_loss_weight: weight of the router z-loss, summed over layers. Default: 0.
        normalize_gates: divide the gates of a frame by their sum, so that the output of experts that are copies of a
            feed-forward is that of the feed-forward; see `sigmel.models.upcycling`. Default: False.
        gradient_sharing: 0 to 1, how much of an expert's gradient is the mean over the experts of its layer, see
            `sigmel.layers.experts.ExpertFeedForward`. Default: 0.

    Raises:
        SigmelError: an option out of its range, by name.
    """

    routing: str = "omni"
    experts: int = 4
    top_k: int = 1
    expert_layers: str = "all"
    jitter: float = 0.01
    load_balance_weight: float = 0.01
    z_loss_weight: float = 0.0
    normalize_gates: bool = False
    gradient_sharing: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"dense|switch|omni|path:[1-9]\d*", self.routing):
            raise SigmelError(f"routing: '{self.routing}' is none of dense, switch, omni, path:<k>")
        if not 0 <= self.gradient_sharing <= 1:
            raise SigmelError(f"gradient_sharing: {self.gradient_sharing} must be from 0 to 1")

    def build_routers(self, num_layers: int, d_model: int) -> Routers:
        """Make the routers of a stack.

        Args:
            num_layers: layers of the stack.
            d_model: D.

        Raises:
            SigmelError: layers with experts that are not in the stack, fewer than two experts, top_k outside
                1..experts, or a k that does not divide the number of layers it is to share.
        """
        groups = parse_expert_layers(self.expert_layers, num_layers, self.experts)
        routers: list[Router] = []
        of_layer = {}
        for layers, experts in groups if self.routing != "dense" else []:
            if experts < 2:
                raise SigmelError(f"experts: {experts} leaves nothing to route; take 2 or more, or routing: dense")
            if not 1 <= self.top_k <= experts:
                raise SigmelError(f"top_k: {self.top_k} of {experts} experts; it must be from 1 to experts")
            kind, _, k = self.routing.partition(":")
            shared = {"switch": 1, "omni": len(layers)}.get(kind) or int(k)
            if len(layers) % shared:
                raise SigmelError(f"routing: '{self.routing}' does not divide the {len(layers)} layers with experts")
            for position, layer in enumerate(layers):
                if position % shared == 0:
                    routers.append(Router(d_model, experts, self.top_k, self.jitter, self.normalize_gates))
                of_layer[layer] = len(routers) - 1
        return Routers(routers, of_layer)

    def loss(self, decision: RoutingDecision, valid: Tensor) -> Tensor:
        """The weighted losses of one layer's decision about valid frames (B, T), which a training loss adds."""
        loss = torch.zeros((), device=valid.device)
        if self.load_balance_weight:
            loss = loss + self.load_balance_weight * load_balance_loss(decision, valid)
        if self.z_loss_weight:
            loss = loss + self.z_loss_weight * router_z_loss(decision, valid)
        return loss


def load_balance_loss(decision: RoutingDecision, valid: Tensor) -> Tensor:
    """`E * sum_e f_e P_e` (arXiv 2101.03961, eq. 4): 1 when balanced, up to E when one expert takes all.

    Args:
        decision: of one layer.
        valid: (B, T) bool, the frames that count.
    """
    experts = decision.logits.shape[-1]
    chosen = F.one_hot(decision.experts, experts).float().mean(2)  # (B, T, E), over the K choices
    choices = torch.stack([chosen, decision.logits.softmax(-1)], dim=2)  # (B, T, 2, E)
    fraction, probability = _mean(decision, choices, valid)
    return experts * (fraction * probability).sum()


def router_z_loss(decision: RoutingDecision, valid: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the scores of valid frames, which keeps scores small (arXiv 2202.08906, eq. 5)."""
    return _mean(decision, decision.logits.logsumexp(-1).square(), valid)


def _mean(decision: RoutingDecision, values: Tensor, valid: Tensor) -> Tensor:
    """(...) mean of (B, T, ...) over the valid frames of the batch."""
    mask = valid.to(values.dtype)  # (B, T)
    sums = torch.cat([torch.einsum("bt,bt...->...", mask, values).flatten(), mask.sum()[None]])
    if decision.total is not None:
        sums = decision.total(sums)
    return (sums[:-1] / sums[-1].clamp(min=1)).view(values.shape[2:])
