"""An encoder whose routing is disturbed: experts shuffled, paths restricted, scores with noise (arXiv 2603.18297).

What a model loses by it says how much its routing matters. Experts are replaced and gates kept in the first two: a
frame goes elsewhere with the weight that it gave to the expert it wanted. Noise changes both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.errors import SigmelError
from sigmel.layers.routing import Router, RoutingDecision
from sigmel.routing_study.statistics import routers_of

# (number of the layer among those with experts, its router, what that said) -> what is done instead
Change = Callable[[int, Router, RoutingDecision], RoutingDecision]


@contextmanager
def disturbed(encoder: nn.Module, change: Change) -> Iterator[None]:
    """Let `change` have the last word on each routing decision of an encoder that calls its routers layer by layer.

    The encoder's output, its decisions included, is what comes of it; later layers see what earlier ones made.
    """
    layer = 0

    def restart(_: nn.Module, __: Any) -> None:
        nonlocal layer
        layer = 0

    def decide(router: nn.Module, _: Any, decision: RoutingDecision) -> RoutingDecision:
        nonlocal layer
        assert isinstance(router, Router)
        layer += 1
        return change(layer - 1, router, decision)

    with ExitStack() as hooks:
        hooks.enter_context(encoder.register_forward_pre_hook(restart))
        for router in routers_of(encoder):  # each once, though it is called for every layer that shares it
            hooks.enter_context(router.register_forward_hook(decide))
        yield


def permute(permutations: Sequence[Tensor]) -> Change:
    """Send what was meant for expert e of layer l to expert `permutations[l][e]`, with the same gate."""

    def change(layer: int, router: Router, decision: RoutingDecision) -> RoutingDecision:
        permutation = permutations[layer].to(decision.experts.device)
        return decision._replace(experts=permutation[decision.experts])

    return change


def shuffle(num_experts: Sequence[int], seed: int) -> Change:
    """`permute` by a random permutation of the experts of each layer; `num_experts` are those of each layer."""
    generator = torch.Generator().manual_seed(seed)
    return permute([torch.randperm(count, generator=generator) for count in num_experts])


def restrict(paths: Tensor) -> Change:
    """Keep frames on some paths.

    Layer by layer a frame takes, of the experts that continue a path on which it still is, the one with the highest
    score. With more than one expert a frame, the others are the best of the rest.

    Args:
        paths: (P, L) int64, first choices of the paths allowed, P > 0.

    Raises:
        SigmelError: there is no path.
    """
    if not len(paths):
        raise SigmelError("paths: at least one must be left")
    # The paths as a tree: for each layer, which node of the next (-1 is none) an expert leads to from each node.
    node = torch.zeros(len(paths), dtype=torch.int64)
    tree = []
    for step in paths.cpu().unbind(1):
        edges, following = torch.stack([node, step], dim=1).unique(dim=0, return_inverse=True)
        leads_to = torch.full((int(node.max()) + 1, int(paths.max()) + 1), -1)
        leads_to[edges[:, 0], edges[:, 1]] = torch.arange(len(edges))
        tree.append(leads_to)
        node = following
    reached = torch.empty(0)  # (B, T) int64: the node that each frame has come to

    def change(layer: int, router: Router, decision: RoutingDecision) -> RoutingDecision:
        nonlocal reached
        logits = decision.logits
        if layer == 0:
            reached = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
        leads_to = tree[layer].to(logits.device)[reached]  # (B, T, experts that occur in paths)
        leads_to = F.pad(leads_to, (0, logits.shape[-1] - leads_to.shape[-1]), value=-1)  # (B, T, E)
        first = logits.masked_fill(leads_to < 0, -torch.inf).argmax(-1, keepdim=True)  # (B, T, 1)
        reached = leads_to.gather(-1, first).squeeze(-1)
        chosen = logits.scatter(-1, first, torch.inf).topk(router.top_k, dim=-1).indices
        return decision._replace(experts=chosen)

    return change


def noise(deviation: float, seed: int) -> Change:
    """Add Gaussian noise to the scores, and choose by the result.

    Args:
        deviation: of the noise, in the units of the scores (logits).
        seed: of the noise.

    Raises:
        SigmelError: the deviation is negative.
    """
    if not deviation >= 0:
        raise SigmelError(f"noise: a deviation of {deviation} must be 0 or more")
    generator = torch.Generator().manual_seed(seed)

    def change(layer: int, router: Router, decision: RoutingDecision) -> RoutingDecision:
        drawn = torch.randn(decision.logits.shape, generator=generator)
        logits = decision.logits + deviation * drawn.to(decision.logits.device)
        gates, experts = logits.softmax(-1).topk(router.top_k, dim=-1)
        if router.normalize_gates:
            gates = gates / gates.sum(-1, keepdim=True)
        return decision._replace(logits=logits, experts=experts, gates=gates)

    return change
