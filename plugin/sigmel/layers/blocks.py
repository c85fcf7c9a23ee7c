"""The layers of an encoder: pre-norm Transformer and Conformer blocks, offline and streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor, nn

from sigmel.layers.attention import AttentionState, MultiHeadAttention
from sigmel.layers.convolution import ConvolutionModule
from sigmel.layers.dropout import Dropout
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible
from sigmel.layers.routing import Router, RoutingDecision

Layer = Callable[[Tensor], Tensor]


@dataclass
class BlockState:
    """The past of a block; `convolution` is an empty tensor in a Transformer block."""

    attention: AttentionState
    convolution: Tensor


class BlockOutput(NamedTuple):
    """The output of a block for whole utterances.

    Attributes:
        hidden: (B, T, D).
        routing: the decision of the block's router, if the block has experts.
        attention_norm: (B, T) in training, the 2-norm of the attention's output at each frame.
    """

    hidden: Tensor
    routing: RoutingDecision | None
    attention_norm: Tensor | None


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each after a layer norm and added to its input.

    Args:
        d_model: D.
        attention: the self-attention module.
        feed_forward: dense, or experts.
        dropout: probability, of dropout after attention and feed-forward.
    """

    convolution: ConvolutionModule  # a Conformer block has one

    def __init__(
        self,
        d_model: int,
        attention: MultiHeadAttention,
        feed_forward: FeedForward | ExpertFeedForward,
        dropout: float,
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = attention
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.feed_forward = feed_forward
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, visible: Visible, valid: Tensor, table: Tensor | None, router: Router | None
    ) -> BlockOutput:
        """Transform x (B, T, D).

        Args:
            x: frames.
            visible: which keys a query sees.
            valid: (B, T) bool, which frames exist.
            table: of the attention's positions.
            router: the router of this layer, or None if it is dense.
        """
        return self._compose(
            x, lambda u: self.attention(u, visible, table), lambda u: self.convolution(u, valid), valid, router
        )

    def step(
        self,
        x: Tensor,
        state: BlockState,
        mask: Tensor,
        valid: Tensor,
        left_context: int | None,
        table: Tensor | None,
        router: Router | None,
    ) -> tuple[Tensor, BlockState]:
        """The next chunk x (B, T, D); the mask (B, 1, T, L + T) covers the L frames of the state too."""
        after = replace(state)

        def attend(u: Tensor) -> Tensor:
            y, after.attention = self.attention.step(u, state.attention, mask, left_context, table)
            return y

        def convolve(u: Tensor) -> Tensor:
            y, after.convolution = self.convolution.step(u, state.convolution, valid)
            return y

        return self._compose(x, attend, convolve, valid, router).hidden, after

    def initial_state(self, batch_size: int, left_context: int | None) -> BlockState:
        """No past."""
        weight = self.feed_forward_norm.weight
        return BlockState(self.attention.initial_state(batch_size, left_context), weight.new_zeros(batch_size, 0))

    def _compose(self, x: Tensor, attend: Layer, convolve: Layer, valid: Tensor, router: Router | None) -> BlockOutput:
        """The parts of the block in their order, offline and streamed; a Transformer block does not use `convolve`."""
        x, norm = self._attend(x, attend)
        return BlockOutput(*self._feed_forward(x, valid, router), norm)

    def _attend(self, x: Tensor, attend: Layer) -> tuple[Tensor, Tensor | None]:
        y = attend(self.attention_norm(x))
        norm = y.detach().float().norm(dim=-1) if self.training else None
        return x + self.dropout(y), norm

    def _feed_forward(
        self, x: Tensor, valid: Tensor, router: Router | None, scale: float = 1.0
    ) -> tuple[Tensor, RoutingDecision | None]:
        u = self.feed_forward_norm(x)
        if isinstance(self.feed_forward, ExpertFeedForward):
            assert router is not None  # for the type checker: the encoder gives one to each expert layer
            y, decision = self.feed_forward(u, router, valid)
        else:
            y, decision = self.feed_forward(u), None
        return x + scale * self.dropout(y), decision


class ConformerBlock(TransformerBlock):
    """The Conformer's block (arXiv 2005.08100, section 2).

    Half a dense feed-forward, attention, convolution, half a feed-forward that may have experts, layer norm.

    Args:
        d_model, attention, feed_forward, dropout: see `TransformerBlock`.
        first_feed_forward: the dense one before the attention.
        convolution: the convolution module.
    """

    def __init__(
        self,
        d_model: int,
        attention: MultiHeadAttention,
        feed_forward: FeedForward | ExpertFeedForward,
        dropout: float,
        first_feed_forward: FeedForward,
        convolution: ConvolutionModule,
    ):
        super().__init__(d_model, attention, feed_forward, dropout)
        self.first_feed_forward_norm = nn.LayerNorm(d_model)
        self.first_feed_forward = first_feed_forward
        self.convolution_norm = nn.LayerNorm(d_model)
        self.convolution = convolution
        self.final_norm = nn.LayerNorm(d_model)

    def initial_state(self, batch_size: int, left_context: int | None) -> BlockState:
        """No past."""
        return BlockState(
            self.attention.initial_state(batch_size, left_context), self.convolution.initial_state(batch_size)
        )

    def _compose(self, x: Tensor, attend: Layer, convolve: Layer, valid: Tensor, router: Router | None) -> BlockOutput:
        x = x + 0.5 * self.dropout(self.first_feed_forward(self.first_feed_forward_norm(x)))
        x, norm = self._attend(x, attend)
        x = x + self.dropout(convolve(self.convolution_norm(x)))
        x, decision = self._feed_forward(x, valid, router, scale=0.5)
        return BlockOutput(self.final_norm(x), decision, norm)
