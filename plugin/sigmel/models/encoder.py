"""Speech encoders whose feed-forwards may be routed experts: Omni-router, PathMoE, Switch, and their dense twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.layers.attention import MultiHeadAttention
from sigmel.layers.blocks import BlockState, ConformerBlock, TransformerBlock
from sigmel.layers.convolution import ConvolutionModule
from sigmel.layers.dropout import Dropout
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible, attention_mask, valid_frames
from sigmel.layers.routing import RoutingDecision
from sigmel.layers.subsampling import ConvSubsampling, StackSubsampling
from sigmel.models.stack import POSITIONS, RoutedStack, check_choice, check_heads


class EncoderOutput(NamedTuple):
    """What an encoder returns.

    Attributes:
        hidden: (B, T', D), zero at and beyond `lengths`.
        lengths: (B,) int64, in encoder frames.
        aux_loss: scalar to add to the training loss, already weighted; 0 for a dense encoder.
        routing: a decision for each layer with experts, first layer first.
        attention_norms: (L,) in training, for each layer the mean over frames of the 2-norm of what its attention
            gives; large ones early in training are what sigmoid attention fails by (arXiv 2409.04431). Else None.
    """

    hidden: Tensor
    lengths: Tensor
    aux_loss: Tensor
    routing: tuple[RoutingDecision, ...]
    attention_norms: Tensor | None = None


@dataclass
class EncoderState:
    """What streaming remembers. Every tensor has the batch as its first dimension.

    Attributes:
        frames: (B,) int64, encoder frames so far.
        subsampling: the last input frame of each convolution; empty for stacked frames.
        blocks: one state a layer.
    """

    frames: Tensor
    subsampling: list[Tensor]
    blocks: list[BlockState]


class OmniRouterEncoder(RoutedStack):
    """Transformer or Conformer encoder with routed experts (arXiv 2507.05724; PathMoE: 2603.18297).

    Args:
        input_size: features a frame. Default: 80.
        d_model: model size D. Default: 256.
        num_layers: blocks. Default: 12.
        num_heads: attention heads; they divide d_model. Default: 4.
        ff_size: hidden size of a feed-forward, of one expert where there are experts. Default: 4 * d_model.
        block: "conformer" (experts in its second feed-forward) or "transformer" (pre-norm). Default: "conformer".
        subsampling: "conv" (stride-2 convolutions) or "stack" (frames side by side). Default: "conv".
        subsampling_factor: feature frames an encoder frame; a power of two for "conv". Default: 4.
        subsampling_channels: channels of "conv". Default: 64.
        positions: "rope", "alibi", "relative" (as in the Conformer's paper), "sinusoidal" (added to the input) or
            "none". Default: "rope".
        attention: a registered attention: "softmax", or "sigmoid", which needs a left_context where there are chunks.
            Default: "softmax".
        attention_options: further arguments of that attention, such as {"qk_norm": true}. Default: None.
        conv_kernel: frames of the Conformer's convolution; odd with full context. Default: 15.
        activation: "silu", "relu", "gelu" or gated "swiglu", "reglu", "geglu", of the feed-forwards. Default: "silu".
        dropout: probability. Default: 0.1.
        routing: "dense", "switch" (a router a layer), "omni" (one router for all layers) or "path:<k>" (one for every
            k consecutive layers). Default: "omni".
        experts: experts of a layer. Default: 4.
        top_k: experts a frame is sent to. Default: 1.
        expert_layers: "all", "every:<n>", or groups of layers x experts such as "4x2-4x4". Default: "all".
        jitter: noise on the router's input in training. Default: 0.01.
        load_balance_weight: weight of the load-balancing loss, summed over layers; 0 for none. Default: 0.01.
        z_loss_weight: weight of the router z-loss, summed over layers. Default: 0.
        normalize_gates: divide the gates by their sum, so that experts that are copies of one feed-forward give what
            it gives; see `sigmel.models.upcycling`. Default: False.
        gradient_sharing: 0 to 1, how much of an expert's gradient is the mean over the experts of its layer, see
            `sigmel.layers.experts.ExpertFeedForward`. Default: 0.
        chunk_size: encoder frames that see each other; 1 is causal, None the full context. Default: None.
        left_context: encoder frames before its chunk that a frame sees; None is all. Default: None.

    Raises:
        SigmelError: options that are unknown or contradict each other, by name.
    """

    input_size: int
    subsampling_factor: int

    def __init__(
        self,
        input_size: int = 80,
        d_model: int = 256,
        num_layers: int = 12,
        num_heads: int = 4,
        ff_size: int | None = None,
        block: str = "conformer",
        subsampling: str = "conv",
        subsampling_factor: int = 4,
        subsampling_channels: int = 64,
        positions: str = "rope",
        attention: str = "softmax",
        attention_options: Mapping[str, Any] | None = None,
        conv_kernel: int = 15,
        activation: str = "silu",
        dropout: float = 0.1,
        routing: str = "omni",
        experts: int = 4,
        top_k: int = 1,
        expert_layers: str = "all",
        jitter: float = 0.01,
        load_balance_weight: float = 0.01,
        z_loss_weight: float = 0.0,
        normalize_gates: bool = False,
        gradient_sharing: float = 0.0,
        chunk_size: int | None = None,
        left_context: int | None = None,
    ):
        super().__init__()
        check_choice("block", block, ("conformer", "transformer"))
        check_choice("subsampling", subsampling, ("conv", "stack"))
        check_choice("positions", positions, tuple(POSITIONS))
        sizes = {"input_size": input_size, "d_model": d_model, "num_layers": num_layers, "num_heads": num_heads}
        sizes |= {"subsampling_factor": subsampling_factor, "conv_kernel": conv_kernel}
        for name, size in (sizes | ({} if ff_size is None else {"ff_size": ff_size})).items():
            if size < 1:
                raise SigmelError(f"{name}: {size} must be at least 1")
        check_heads(d_model, num_heads, positions)
        if chunk_size is not None and chunk_size < 1:
            raise SigmelError(f"chunk_size: {chunk_size} must be at least 1, or null for the full context")
        if left_context is not None and (chunk_size is None or left_context < 0):
            raise SigmelError(f"left_context: {left_context} must be at least 0, and needs chunk_size")
        if block == "conformer" and chunk_size is None and conv_kernel % 2 == 0:
            raise SigmelError(f"conv_kernel: {conv_kernel} must be odd unless chunk_size is set")

        self.input_size = input_size
        self.chunk_size = chunk_size
        self.left_context = left_context
        self.subsampling_factor = subsampling_factor
        self.subsampling: ConvSubsampling | StackSubsampling = (
            ConvSubsampling(input_size, d_model, subsampling_factor, subsampling_channels)
            if subsampling == "conv"
            else StackSubsampling(input_size, d_model, subsampling_factor)
        )
        self.input_norm = nn.LayerNorm(d_model)  # what the blocks add at first must not drown the features
        self.dropout = Dropout(dropout)

        ff_size = 4 * d_model if ff_size is None else ff_size
        attention_class = registry.get("attention", attention)
        if chunk_size is not None and left_context is None and getattr(attention_class, "needs_left_context", False):
            raise SigmelError(f"left_context: attention '{attention}' needs one with chunk_size")

        def make_block(attend: MultiHeadAttention, feed_forward: FeedForward | ExpertFeedForward) -> TransformerBlock:
            parts = (d_model, attend, feed_forward, dropout)
            if block == "transformer":
                return TransformerBlock(*parts)
            first = FeedForward(d_model, ff_size, activation, dropout)
            return ConformerBlock(*parts, first, ConvolutionModule(d_model, conv_kernel, chunk_size is not None))

        # The encoder owns the routers, each once; a layer is given its own in `forward`.
        self.build_blocks(
            make_block,
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            ff_size=ff_size,
            positions=positions,
            attention=attention,
            attention_options=attention_options,
            # What a frame of a chunked encoder sees once it is under way; without a left context that has no end.
            keys=None if chunk_size is None or left_context is None else chunk_size + left_context,
            activation=activation,
            dropout=dropout,
            routing=routing,
            experts=experts,
            top_k=top_k,
            expert_layers=expert_layers,
            jitter=jitter,
            load_balance_weight=load_balance_weight,
            z_loss_weight=z_loss_weight,
            normalize_gates=normalize_gates,
            gradient_sharing=gradient_sharing,
        )
        self.final_norm = nn.LayerNorm(d_model) if block == "transformer" else nn.Identity()

    def output_size(self) -> int:
        """D."""
        return self.d_model

    def forward(self, features: Tensor, lengths: Tensor) -> EncoderOutput:
        """Encode whole utterances.

        Args:
            features: (B, T, F); what stands at and beyond an utterance's length does not matter.
            lengths: (B,) int64, in feature frames.
        """
        features = features * valid_frames(lengths, features.shape[1])[..., None]
        x = self.input_norm(self.subsampling(features))  # (B, T', D)
        lengths = self.output_lengths(lengths)
        valid = valid_frames(lengths, x.shape[1])  # (B, T')
        visible = Visible(lengths, x.shape[1], self.chunk_size, self.left_context)
        x, table = self.position(x, torch.arange(x.shape[1], device=x.device), past=0)
        x = self.dropout(x)

        x, aux_loss, routing, norms = self.run_blocks(x, visible, valid, table)
        return EncoderOutput(self.final_norm(x) * valid[..., None], lengths, aux_loss, routing, norms)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Encoder frames of so many feature frames: ceil(lengths / subsampling_factor)."""
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
        """Encode the next features of each stream; what comes out equals `forward` over the whole of it.

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
        batch, frames, _ = x.shape
        past = state.blocks[0].attention.keys.shape[2]
        valid = valid_frames(self.output_lengths(lengths), frames)  # (B, T)
        whole = torch.ones(frames, frames, dtype=torch.bool, device=x.device)
        # Slot j of the past holds frame `frames so far - past + j`; before the first frame there is nothing to see.
        seen = state.frames[:, None] >= past - torch.arange(past, device=x.device)  # (B, past)
        seen = seen[:, None, None].expand(batch, 1, frames, past)
        mask = torch.cat([seen, attention_mask(valid, whole)], dim=-1)  # (B, 1, T, past + T)
        x, table = self.position(x, state.frames[:, None] + torch.arange(frames, device=x.device), past)
        blocks = []
        for (block, router), before in zip(self.layers(), state.blocks, strict=True):
            x, after = block.step(x, before, mask, valid, self.left_context, table, router)
            blocks.append(after)
        return self.final_norm(x) * valid[..., None], EncoderState(state.frames + frames, subsampling, blocks)
