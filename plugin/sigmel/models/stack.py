"""Blocks with attention and feed-forwards that may be routed experts: what encoder and language model are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.layers.attention import MultiHeadAttention
from sigmel.layers.blocks import TransformerBlock
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible
from sigmel.layers.positions import Alibi, Positions, Relative, Rotary, sinusoids
from sigmel.layers.routed_feed_forward import RoutedFeedForward
from sigmel.layers.routing import Router, RoutingDecision, auxiliary_loss, build_routers, parse_expert_layers

POSITIONS = {"rope": Rotary, "alibi": Alibi, "relative": Relative, "sinusoidal": Positions, "none": Positions}

MakeBlock = Callable[[MultiHeadAttention, "FeedForward | ExpertFeedForward"], TransformerBlock]


class ParameterCounts(NamedTuple):
    """Parameters of a model, and how many of them one frame uses."""

    total: int
    active: int


class StackOutput(NamedTuple):
    """What the blocks give for whole sequences.

    Attributes:
        hidden: (B, T, D).
        aux_loss: scalar to add to the training loss, already weighted; 0 where there are no experts.
        routing: a decision for each layer with experts, first layer first.
        attention_norms: (L,) in training, for each layer the mean over frames of the 2-norm of what its attention
            gives; large ones early in training are what sigmoid attention fails by (arXiv 2409.04431). Else None.
    """

    hidden: Tensor
    aux_loss: Tensor
    routing: tuple[RoutingDecision, ...]
    attention_norms: Tensor | None


class RoutedStack(nn.Module):
    """A model that owns blocks and their routers, each router once; a subclass makes them by `build_blocks`."""

    blocks: nn.ModuleList
    routers: nn.ModuleList
    router_of_layer: dict[int, int]

    def build_blocks(
        self,
        make_block: MakeBlock,
        *,
        d_model: int,
        num_layers: int,
        num_heads: int,
        ff_size: int,
        positions: str,
        attention: str,
        attention_options: Mapping[str, Any] | None,
        keys: int | None,
        activation: str,
        dropout: float,
        routing: str,
        experts: int,
        top_k: int,
        expert_layers: str,
        jitter: float,
        load_balance_weight: float,
        z_loss_weight: float,
        normalize_gates: bool,
        gradient_sharing: float,
    ) -> None:
        """Make `blocks` and `routers`; for the options see `sigmel.models.encoder.OmniRouterEncoder`.

        Args:
            make_block: makes a block of its attention and its feed-forward.
            keys: see `sigmel.layers.attention.MultiHeadAttention`.
        """
        self.d_model, self.num_heads, self.positions = d_model, num_heads, positions
        self.load_balance_weight, self.z_loss_weight = load_balance_weight, z_loss_weight
        groups = parse_expert_layers(expert_layers, num_layers, experts)
        self.routers, self.router_of_layer = build_routers(routing, groups, d_model, top_k, jitter, normalize_gates)
        attention_class = registry.get("attention", attention)
        self.blocks = nn.ModuleList()
        for layer in range(num_layers):
            feed_forward: FeedForward | ExpertFeedForward
            if layer in self.router_of_layer:
                router = cast(Router, self.routers[self.router_of_layer[layer]])
                feed_forward = ExpertFeedForward(d_model, ff_size, router.num_experts, activation, gradient_sharing)
            else:
                feed_forward = FeedForward(d_model, ff_size, activation, dropout)
            where = POSITIONS[positions](d_model, num_heads)
            try:
                attend = attention_class(d_model, num_heads, where, keys, **(attention_options or {}))
            except TypeError as error:  # an unknown option
                raise SigmelError(f"attention_options: {error}") from error
            self.blocks.append(make_block(attend, feed_forward))

    def parameter_counts(self) -> ParameterCounts:
        """All parameters, and those that one frame uses: of E experts, top_k."""
        total = sum(p.numel() for p in self.parameters())
        idle = 0
        for block, router in self.layers():
            if router is not None:
                idle += cast(ExpertFeedForward, block.feed_forward).idle_parameters(router.top_k)
        return ParameterCounts(total, total - idle)

    def layers(self) -> list[tuple[TransformerBlock, Router | None]]:
        """Each block with the router it is given."""
        routers = [self.router_of_layer.get(layer) for layer in range(len(self.blocks))]
        return [
            (cast(TransformerBlock, block), None if router is None else cast(Router, self.routers[router]))
            for block, router in zip(self.blocks, routers, strict=True)
        ]

    def run_blocks(self, x: Tensor, visible: Visible, valid: Tensor, table: Tensor | None) -> StackOutput:
        """Apply the blocks to x (B, T, D), of which frames (B, T) are valid; `table` is of the positions."""
        aux_loss = torch.zeros((), device=x.device)
        routing, norms = [], []
        for block, router in self.layers():
            x, decision, norm = block(x, visible, valid, table, router)
            if decision is not None:
                routing.append(decision)
                aux_loss = aux_loss + auxiliary_loss(decision, valid, self.load_balance_weight, self.z_loss_weight)
            if norm is not None:
                norms.append((norm * valid).sum() / valid.sum().clamp(min=1))
        return StackOutput(x, aux_loss, tuple(routing), torch.stack(norms) if norms else None)

    def position(self, x: Tensor, frames: Tensor, past: int) -> tuple[Tensor, Tensor | None]:
        """x with its positions added, if they are, and the table of the attentions' positions; see there."""
        if self.positions == "sinusoidal":
            x = x + sinusoids(frames, self.d_model).to(x.dtype)
        return x, POSITIONS[self.positions].table(frames, past, self.d_model, self.num_heads)


def parameter_counts(model: nn.Module) -> ParameterCounts:
    """All parameters of a model that may hold our stacks, and those that one frame uses."""
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for module in model.modules():
        if isinstance(module, RoutedStack):
            counts = module.parameter_counts()
            idle += counts.total - counts.active
        elif isinstance(module, RoutedFeedForward):
            idle += module.experts.idle_parameters(module.router.top_k)
    return ParameterCounts(total, total - idle)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a SigmelError that names an option whose value is none of its choices."""
    if value not in choices:
        raise SigmelError(f"{option}: '{value}' is none of {', '.join(choices)}")


def check_heads(d_model: int, num_heads: int, positions: str) -> None:
    """Raise a SigmelError where sizes do not go together."""
    if d_model % num_heads:
        raise SigmelError(f"num_heads: {num_heads} does not divide d_model: {d_model}")
    if positions == "rope" and d_model // num_heads % 2:
        raise SigmelError(f"num_heads: {num_heads} heads of d_model {d_model} have an odd size; rope needs even")
    if positions in ("relative", "sinusoidal") and d_model % 2:
        raise SigmelError(f"d_model: {d_model} must be even for positions: {positions}")
