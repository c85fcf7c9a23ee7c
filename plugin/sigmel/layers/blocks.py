"""The layers of an encoder: pre-norm Transformer and Conformer blocks, offline and streamed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from sigmel.layers.attention import AttentionState, MultiHeadAttention
from sigmel.layers.convolution import ConvolutionModule
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.routing import Router, RoutingDecision


@dataclass
class BlockState:
    """What a block remembers of the past; `convolution` is an empty tensor in a Transformer block."""

    attention: AttentionState
    convolution: Tensor


class TransformerBlock(nn.Module):
    """Attention and feed-forward, each after a layer norm and added to its input.

    Args:
        d_model: D.
        attention: the self-attention module.
        feed_forward: dense, or the experts.
        dropout: probability, on what is added.
    """

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
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, valid: Tensor, rotary: Tensor | None, router: Router | None
    ) -> tuple[Tensor, RoutingDecision | None]:
        """Transform x (B, T, D).

        Args:
            x: frames.
            mask: (B, 1, T, T) bool, which keys a query sees.
            valid: (B, T) bool, which frames exist.
            rotary: angles, or None.
            router: the router of this layer, or None if it is dense.
        """
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, rotary))
        return self._feed_forward(x, valid, router)

    def step(
        self,
        x: Tensor,
        state: BlockState,
        mask: Tensor,
        valid: Tensor,
        left_context: int | None,
        rotary: Tensor | None,
        router: Router | None,
    ) -> tuple[Tensor, BlockState]:
        """The next chunk x (B, T, D); the mask (B, 1, T, L + T) covers the L frames of the state too."""
        y, attention = self.attention.step(self.attention_norm(x), state.attention, mask, left_context, rotary)
        x, _ = self._feed_forward(x + y, valid, router)
        return x, BlockState(attention, state.convolution)

    def initial_state(self, batch_size: int, left_context: int | None) -> BlockState:
        """No past."""
        weight = self.feed_forward_norm.weight
        return BlockState(self.attention.initial_state(batch_size, left_context), weight.new_zeros(batch_size, 0))

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
    """Half a dense feed-forward, attention, convolution, half a feed-forward (the one with experts), layer norm.

    arXiv 2005.08100, section 2.

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

    def forward(
        self, x: Tensor, mask: Tensor, valid: Tensor, rotary: Tensor | None, router: Router | None
    ) -> tuple[Tensor, RoutingDecision | None]:
        """See `TransformerBlock.forward`."""
        x = self._first_half(x)
        x = x + self.dropout(self.attention(self.attention_norm(x), mask, rotary))
        x = x + self.dropout(self.convolution(self.convolution_norm(x), valid))
        x, decision = self._feed_forward(x, valid, router, scale=0.5)
        return self.final_norm(x), decision

    def step(
        self,
        x: Tensor,
        state: BlockState,
        mask: Tensor,
        valid: Tensor,
        left_context: int | None,
        rotary: Tensor | None,
        router: Router | None,
    ) -> tuple[Tensor, BlockState]:
        """See `TransformerBlock.step`."""
        x = self._first_half(x)
        y, attention = self.attention.step(self.attention_norm(x), state.attention, mask, left_context, rotary)
        x = x + y
        y, convolution = self.convolution.step(self.convolution_norm(x), state.convolution, valid)
        x, _ = self._feed_forward(x + y, valid, router, scale=0.5)
        return self.final_norm(x), BlockState(attention, convolution)

    def initial_state(self, batch_size: int, left_context: int | None) -> BlockState:
        """No past."""
        return BlockState(
            self.attention.initial_state(batch_size, left_context), self.convolution.initial_state(batch_size)
        )

    def _first_half(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.dropout(self.first_feed_forward(self.first_feed_forward_norm(x)))
