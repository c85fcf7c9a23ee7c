"""Stacks of blocks whose feed-forwards may be routed experts: the core of the encoder and of the language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.flat_options import check_choice, check_positive
from sigmel.layers.attention import MultiHeadAttention
from sigmel.layers.blocks import BlockState, TransformerBlock
from sigmel.layers.dropout import Dropout
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible, attention_mask, valid_frames
from sigmel.layers.positions import Alibi, Positions, Relative, Rotary, sinusoids
from sigmel.layers.routed_feed_forward import RoutedFeedForward
from sigmel.layers.routing import Router, Routers, Routing, RoutingDecision

POSITIONS = {"rope": Rotary, "alibi": Alibi, "relative": Relative, "sinusoidal": Positions, "none": Positions}


@dataclass(frozen=True)
class StackOptions:
    """Options of a stack of blocks besides those of `sigmel.layers.routing.Routing`.

    Args:
        d_model: model size D. Default: 256.
        num_layers: blocks. Default: 12.
        num_heads: attention heads; they divide d_model. Default: 4.
        ff_size: hidden size of a feed-forward, of one expert where there are experts. Default: 4 * d_model.
        positions: "rope", "alibi", "relative" (as in the Conformer's paper), "sinusoidal" (added to the input) or
            "none". Default: "rope".
        attention: a registered attention: "softmax", or "sigmoid", which needs a left_context where there are chunks.
            Default: "softmax".
        attention_options: further arguments of that attention, such as {"qk_norm": true}. Default: None.
        activation: "silu", "relu", "gelu" or gated "swiglu", "reglu", "geglu", of the feed-forwards. Default: "silu".
        dropout: probability. Default: 0.1.

    Raises:
        SigmelError: options that are unknown or contradict each other, by name.
    """

    d_model: int = 256
    num_layers: int = 12
    num_heads: int = 4
    ff_size: int | None = None
    positions: str = "rope"
    attention: str = "softmax"
    attention_options: Mapping[str, Any] | None = None
    activation: str = "silu"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_choice("positions", self.positions, POSITIONS)
        check_positive(d_model=self.d_model, num_layers=self.num_layers, num_heads=self.num_heads)
        check_positive(ff_size=self.hidden_size)
        head = self.d_model // self.num_heads
        if self.d_model % self.num_heads:
            raise SigmelError(f"num_heads: {self.num_heads} does not divide d_model: {self.d_model}")
        if self.positions == "rope" and head % 2:
            raise SigmelError(
                f"num_heads: {self.num_heads} heads of d_model {self.d_model} have an odd size; rope needs even"
            )
        if self.positions in ("relative", "sinusoidal") and self.d_model % 2:
            raise SigmelError(f"d_model: {self.d_model} must be even for positions: {self.positions}")

    @property
    def hidden_size(self) -> int:
        """The hidden size of a feed-forward."""
        return 4 * self.d_model if self.ff_size is None else self.ff_size

    def make_attention(self, keys: int | None) -> MultiHeadAttention:
        """The attention of one block; for `keys` see `sigmel.layers.attention.MultiHeadAttention`."""
        attention = registry.get("attention", self.attention)
        positions = POSITIONS[self.positions](self.d_model, self.num_heads)
        try:
            return attention(self.d_model, self.num_heads, positions, keys, **(self.attention_options or {}))
        except TypeError as error:  # an unknown option
            raise SigmelError(f"attention_options: {error}") from error

    def make_feed_forward(self) -> FeedForward:
        """A dense feed-forward."""
        return FeedForward(self.d_model, self.hidden_size, self.activation, self.dropout)


class EncoderOutput(NamedTuple):
    """Whole sequences after an encoder, or another stack of blocks.

    Attributes:
        hidden: (B, T', D), zero at and beyond `lengths`.
        lengths: (B,) int64, in encoder frames.
        aux_loss: scalar to add to the training loss, already weighted; 0 for a dense encoder.
        routing: a decision for each layer with experts, first layer first.
        attention_norms: (L,) in training, for each layer the mean over frames of the 2-norm of what its attention
            gives; sigmoid attention fails by large norms early in training (arXiv 2409.04431). Else None.
    """

    hidden: Tensor
    lengths: Tensor
    aux_loss: Tensor
    routing: tuple[RoutingDecision, ...]
    attention_norms: Tensor | None = None


class RoutedStack(nn.Module):
    """A model that owns blocks, their routers, each router once, and a `final_norm`.

    A subclass calls `build_blocks` where its parameters of the blocks are to stand among the others.

    Args:
        options: of the blocks.
        routing: of their experts.
    """

    blocks: nn.ModuleList
    routers: Routers
    final_norm: nn.Module

    def __init__(self, options: StackOptions, routing: Routing):
        super().__init__()
        self.options, self.routing, self.d_model = options, routing, options.d_model
        self.dropout = Dropout(options.dropout)

    def build_blocks(self, keys: int | None) -> None:
        """Make `routers`, `blocks` and `final_norm`; for `keys` see `sigmel.layers.attention.MultiHeadAttention`."""
        options, sharing = self.options, self.routing.gradient_sharing
        self.routers = self.routing.build_routers(options.num_layers, options.d_model)
        self.blocks = nn.ModuleList()
        for layer in range(options.num_layers):
            feed_forward: FeedForward | ExpertFeedForward
            if (router := self.routers.of(layer)) is None:
                feed_forward = options.make_feed_forward()
            else:
                sizes = options.d_model, options.hidden_size, router.num_experts
                feed_forward = ExpertFeedForward(*sizes, options.activation, sharing)
            self.blocks.append(self.make_block(options.make_attention(keys), feed_forward))
        self.final_norm = nn.LayerNorm(options.d_model)

    def make_block(
        self, attention: MultiHeadAttention, feed_forward: FeedForward | ExpertFeedForward
    ) -> TransformerBlock:
        """A block, of its attention and its feed-forward."""
        return TransformerBlock(self.d_model, attention, feed_forward, self.options.dropout)

    def layers(self) -> list[tuple[TransformerBlock, Router | None]]:
        """Each block with the router it is given."""
        return [(cast(TransformerBlock, block), self.routers.of(layer)) for layer, block in enumerate(self.blocks)]

    def run_blocks(self, x: Tensor, visible: Visible) -> EncoderOutput:
        """Apply positions, blocks and final norm to whole sequences x (B, T, D)."""
        valid = valid_frames(visible.lengths, x.shape[1])  # (B, T)
        x, table = self._position(x, torch.arange(x.shape[1], device=x.device), past=0)
        x = self.dropout(x)
        aux_loss = torch.zeros((), device=x.device)
        decisions, norms = [], []
        for block, router in self.layers():
            x, decision, norm = block(x, visible, valid, table, router)
            if decision is not None:
                decisions.append(decision)
                aux_loss = aux_loss + self.routing.loss(decision, valid)
            if norm is not None:
                norms.append((norm * valid).sum() / valid.sum().clamp(min=1))
        hidden = self.final_norm(x) * valid[..., None]
        return EncoderOutput(
            hidden, visible.lengths, aux_loss, tuple(decisions), torch.stack(norms) if norms else None
        )

    def step_blocks(
        self,
        x: Tensor,
        frames: Tensor,
        exists: Tensor,
        states: list[BlockState],
        causal: bool,
        left_context: int | None = None,
    ) -> tuple[Tensor, list[BlockState]]:
        """Apply positions, blocks and final norm to the next frames x (B, T, D) of streams.

        Args:
            x: frames that come after P frames in the states.
            frames: (B, T) their numbers in their streams.
            exists: (B, P + T) bool, which frames exist, of the past and of x.
            states: one a block.
            causal: a frame of x sees only the frames of x before it, and itself; else it sees all of x.
            left_context: frames kept for the next step; None keeps all. Default: None.

        Returns:
            (B, T, D), zero where a frame does not exist, and the states after it.
        """
        past, valid = exists.shape[1] - x.shape[1], exists[:, exists.shape[1] - x.shape[1] :]
        context = torch.ones(x.shape[1], exists.shape[1], dtype=torch.bool, device=x.device)
        mask = attention_mask(exists, context.tril(past) if causal else context)
        x, table = self._position(x, frames, past)
        after = []
        for (block, router), state in zip(self.layers(), states, strict=True):
            x, state = block.step(x, state, mask, valid, left_context, table, router)
            after.append(state)
        return self.final_norm(x) * valid[..., None], after

    def _position(self, x: Tensor, frames: Tensor, past: int) -> tuple[Tensor, Tensor | None]:
        """x with sinusoids added, if these are its positions, and the table of the attentions' positions."""
        options = self.options
        if options.positions == "sinusoidal":
            x = x + sinusoids(frames, options.d_model).to(x.dtype)
        return x, POSITIONS[options.positions].table(frames, past, options.d_model, options.num_heads)


class ParameterCounts(NamedTuple):
    """Parameters of a model, and how many of them one frame uses."""

    total: int
    active: int


def parameter_counts(model: nn.Module) -> ParameterCounts:
    """All parameters of a model that may hold stacks of ours, and those that one frame uses: of E experts, top_k."""
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for module in model.modules():
        if isinstance(module, RoutedStack):
            for block, router in module.layers():
                if router is not None:
                    idle += cast(ExpertFeedForward, block.feed_forward).idle_parameters(router.top_k)
        elif isinstance(module, RoutedFeedForward):
            idle += module.experts.idle_parameters(module.router.top_k)
    return ParameterCounts(total, total - idle)
