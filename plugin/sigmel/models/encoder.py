"""Speech encoders whose feed-forwards may be routed experts: Omni-router, PathMoE, Switch, and dense encoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.flat_options import check_choice, check_positive, flat_options, split_options
from sigmel.layers.attention import MultiHeadAttention
from sigmel.layers.blocks import BlockState, ConformerBlock, TransformerBlock
from sigmel.layers.convolution import ConvolutionModule
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible, valid_frames
from sigmel.layers.routing import Routing
from sigmel.layers.subsampling import ConvSubsampling, StackSubsampling
from sigmel.models.stack import EncoderOutput, RoutedStack, StackOptions

__all__ = ["EncoderOutput", "EncoderState", "OmniRouterEncoder"]


@dataclass
class EncoderState:
    """The past of streams. Every tensor has the batch as its first dimension.

    Attributes:
        frames: (B,) int64, encoder frames so far.
        subsampling: the last input frame of each convolution; empty for stacked frames.
        blocks: one state a layer.
    """

    frames: Tensor
    subsampling: list[Tensor]
    blocks: list[BlockState]


@flat_options(StackOptions, Routing)
class OmniRouterEncoder(RoutedStack):
    """Transformer or Conformer encoder with routed experts (arXiv 2507.05724; PathMoE: 2603.18297).

    Args:
        input_size: features a frame. Default: 80.
        block: "conformer" (experts in its second feed-forward) or "transformer" (pre-norm). Default: "conformer".
        subsampling: "conv" (stride-2 convolutions) or "stack" (frames side by side). Default: "conv".
        subsampling_factor: feature frames an encoder frame; a power of two for "conv". Default: 4.
        subsampling_channels: channels of "conv". Default: 64.
        conv_kernel: frames of the Conformer's convolution; odd with full context. Default: 15.
        chunk_size: encoder frames that see each other; 1 is causal, None the full context. Default: None.
        left_context: encoder frames before its chunk that a frame sees; None for all. Default: None.
        **options: sizes, positions, attention, ... of `sigmel.models.stack.StackOptions`, and routing, experts, ... of
            `sigmel.layers.routing.Routing`.

    Raises:
        SigmelError: options that are unknown or contradict each other, by name.
    """

    input_size: int
    subsampling_factor: int

    def __init__(
        self,
        input_size: int = 80,
        *,
        block: str = "conformer",
        subsampling: str = "conv",
        subsampling_factor: int = 4,
        subsampling_channels: int = 64,
        conv_kernel: int = 15,
        chunk_size: int | None = None,
        left_context: int | None = None,
        **options: Any,
    ):
        stack, routing, _ = split_options(options, StackOptions, Routing)
        super().__init__(stack, routing)
        check_choice("block", block, ("conformer", "transformer"))
        check_choice("subsampling", subsampling, ("conv", "stack"))
        check_positive(input_size=input_size, subsampling_factor=subsampling_factor, conv_kernel=conv_kernel)
        if chunk_size is not None and chunk_size < 1:
            raise SigmelError(f"chunk_size: {chunk_size} must be at least 1, or null for the full context")
        if left_context is not None and (chunk_size is None or left_context < 0):
            raise SigmelError(f"left_context: {left_context} must be at least 0, and needs chunk_size")
        if block == "conformer" and chunk_size is None and conv_kernel % 2 == 0:
            raise SigmelError(f"conv_kernel: {conv_kernel} must be odd unless chunk_size is set")
        attention = registry.get("attention", stack.attention)
        if chunk_size is not None and left_context is None and getattr(attention, "needs_left_context", False):
            raise SigmelError(f"left_context: attention '{stack.attention}' needs one with chunk_size")

        self.input_size = input_size
        self.block, self.conv_kernel = block, conv_kernel
        self.chunk_size, self.left_context = chunk_size, left_context
        self.subsampling_factor = subsampling_factor
        self.subsampling: ConvSubsampling | StackSubsampling = (
            ConvSubsampling(input_size, stack.d_model, subsampling_factor, subsampling_channels)
            if subsampling == "conv"
            else StackSubsampling(input_size, stack.d_model, subsampling_factor)
        )
        self.input_norm = nn.LayerNorm(stack.d_model)  # what the blocks add at first must not drown the features
        # The keys that a frame of a chunked encoder sees after the first chunks; without a left context there is no
        # such number.
        self.build_blocks(None if chunk_size is None or left_context is None else chunk_size + left_context)
        if block == "conformer":
            self.final_norm = nn.Identity()  # its blocks end with norms of their own

    def make_block(
        self, attention: MultiHeadAttention, feed_forward: FeedForward | ExpertFeedForward
    ) -> TransformerBlock:
        """See `RoutedStack`."""
        if self.block == "transformer":
            return super().make_block(attention, feed_forward)
        first = self.options.make_feed_forward()
        convolution = ConvolutionModule(self.d_model, self.conv_kernel, self.chunk_size is not None)
        return ConformerBlock(self.d_model, attention, feed_forward, self.options.dropout, first, convolution)

    def output_size(self) -> int:
        """The size D of an encoder frame."""
        return self.d_model

    def forward(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode whole utterances.

        Args:
            features: (B, T, F); values at and beyond an utterance's length do not matter.
            lengths: (B,) int64, in feature frames.
        """
        features = features * valid_frames(lengths, features.shape[1])[..., None]
        x = self.input_norm(self.subsampling(features))  # (B, T', D)
        return self.run_blocks(
            x, Visible(self.output_lengths(lengths), x.shape[1], self.chunk_size, self.left_context)
        )

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """(B,) lengths in encoder frames of (B,) lengths in feature frames, ceil(lengths / subsampling_factor)."""
        return (lengths + self.subsampling_factor - 1) // self.subsampling_factor

    def initial_state(self, batch_size: int) -> EncoderState:
        """The state before the first chunk.

        Raises:
            SigmelError: the encoder sees the full context, so it cannot stream.
        """
        if self.chunk_size is None:
            raise SigmelError("chunk_size: an encoder with the full context cannot stream; set chunk_size")
        device = next(self.parameters()).device
        return EncoderState(
            torch.zeros(batch_size, dtype=torch.int64, device=device),
            self.subsampling.initial_state(batch_size),
            [block.initial_state(batch_size, self.left_context) for block, _ in self.layers()],
        )

    def step(
        self, features: Tensor, state: EncoderState, lengths: Tensor | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Encode the next features of each stream; together the outputs equal `forward` over the whole stream.

        Args:
            features: (B, T, F) with T = n * chunk_size * subsampling_factor; shorter only at the end of the streams.
            state: from `initial_state` or the step before.
            lengths: (B,) int64 features that exist in this call, for streams that end in it. Default: all T.

        Returns:
            (B, T', D) outputs, zero where a stream has ended, and the state for the next step.
        """
        assert self.chunk_size is not None  # a state exists only then
        if lengths is None:
            lengths = torch.full((features.shape[0],), features.shape[1], device=features.device)
        outputs = []
        span = self.chunk_size * self.subsampling_factor
        for chunk in features.split(span, dim=1):
            y, state = self._step_chunk(chunk, state, lengths.clamp(0, span))
            lengths = lengths - span
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    def _step_chunk(self, features: Tensor, state: EncoderState, lengths: Tensor) -> tuple[Tensor, EncoderState]:
        features = features * valid_frames(lengths, features.shape[1])[..., None]
        x, subsampling = self.subsampling.step(features, state.subsampling)
        x = self.input_norm(x)
        past = state.blocks[0].attention.keys.shape[2]
        # Slot j of the past holds frame `frames so far - past + j`; before the first frame there is nothing to see.
        seen = state.frames[:, None] >= past - torch.arange(past, device=x.device)  # (B, past)
        exists = torch.cat([seen, valid_frames(self.output_lengths(lengths), x.shape[1])], dim=1)
        frames = state.frames[:, None] + torch.arange(x.shape[1], device=x.device)
        x, blocks = self.step_blocks(x, frames, exists, state.blocks, causal=False, left_context=self.left_context)
        return x, EncoderState(state.frames + x.shape[1], subsampling, blocks)
