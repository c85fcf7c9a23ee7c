"""Speech encoders whose feed-forwards may be routed experts: Omni-router, PathMoE, Switch, and their dense twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.layers.blocks import BlockState, ConformerBlock, TransformerBlock
from sigmel.layers.convolution import ConvolutionModule
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.masks import Visible, attention_mask, valid_frames
from sigmel.layers.positions import Alibi, Positions, Relative, Rotary, sinusoids
from sigmel.layers.routed import RoutedFeedForward
from sigmel.layers.routing import (
    Router,
    RoutingDecision,
    auxiliary_loss,
    build_routers,
    parse_expert_layers,
)
from sigmel.layers.subsampling import ConvSubsampling, StackSubsampling

POSITIONS = {"rope": Rotary, "alibi": Alibi, "relative": Relative, "sinusoidal": Positions, "none": Positions}


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


class ParameterCounts(NamedTuple):
    """Parameters of a model, and how many of them one frame uses."""

    total: int
    active: int


class OmniRouterEncoder(nn.Module):
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
        _check_choice("block", block, ("conformer", "transformer"))
        _check_choice("subsampling", subsampling, ("conv", "stack"))
        _check_choice("positions", positions, tuple(POSITIONS))
        sizes = {"input_size": input_size, "d_model": d_model, "num_layers": num_layers, "num_heads": num_heads}
        sizes |= {"subsampling_factor": subsampling_factor, "conv_kernel": conv_kernel}
        for name, size in (sizes | ({} if ff_size is None else {"ff_size": ff_size})).items():
            if size < 1:
                raise SigmelError(f"{name}: {size} must be at least 1")
        if d_model % num_heads:
            raise SigmelError(f"num_heads: {num_heads} does not divide d_model: {d_model}")
        if positions == "rope" and d_model // num_heads % 2:
            raise SigmelError(f"num_heads: {num_heads} heads of d_model {d_model} have an odd size; rope needs even")
        if positions in ("relative", "sinusoidal") and d_model % 2:
            raise SigmelError(f"d_model: {d_model} must be even for positions: {positions}")
        if chunk_size is not None and chunk_size < 1:
            raise SigmelError(f"chunk_size: {chunk_size} must be at least 1, or null for the full context")
        if left_context is not None and (chunk_size is None or left_context < 0):
            raise SigmelError(f"left_context: {left_context} must be at least 0, and needs chunk_size")
        if block == "conformer" and chunk_size is None and conv_kernel % 2 == 0:
            raise SigmelError(f"conv_kernel: {conv_kernel} must be odd unless chunk_size is set")

        self.input_size = input_size
        self.d_model = d_model
        self.num_heads = num_heads
        self.positions = positions
        self.load_balance_weight = load_balance_weight
        self.z_loss_weight = z_loss_weight
        self.chunk_size = chunk_size
        self.left_context = left_context
        self.subsampling_factor = subsampling_factor
        self.subsampling: ConvSubsampling | StackSubsampling = (
            ConvSubsampling(input_size, d_model, subsampling_factor, subsampling_channels)
            if subsampling == "conv"
            else StackSubsampling(input_size, d_model, subsampling_factor)
        )
        self.input_norm = nn.LayerNorm(d_model)  # what the blocks add at first must not drown the features
        self.dropout = nn.Dropout(dropout)

        groups = parse_expert_layers(expert_layers, num_layers, experts)
        # The encoder owns the routers, each once; a layer is given its own in `forward`.
        self.routers, self.router_of_layer = build_routers(routing, groups, d_model, top_k, jitter, normalize_gates)
        ff_size = 4 * d_model if ff_size is None else ff_size
        attention_class = registry.get("attention", attention)
        if chunk_size is not None and left_context is None and getattr(attention_class, "needs_left_context", False):
            raise SigmelError(f"left_context: attention '{attention}' needs one with chunk_size")
        # What a frame of a chunked encoder sees once it is under way; without a left context that has no end.
        keys = None if chunk_size is None or left_context is None else chunk_size + left_context
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
            parts = (d_model, attend, feed_forward, dropout)
            if block == "transformer":
                self.blocks.append(TransformerBlock(*parts))
            else:
                first = FeedForward(d_model, ff_size, activation, dropout)
                convolution = ConvolutionModule(d_model, conv_kernel, causal=chunk_size is not None)
                self.blocks.append(ConformerBlock(*parts, first, convolution))
        self.final_norm = nn.LayerNorm(d_model) if block == "transformer" else nn.Identity()

    def output_size(self) -> int:
        """D."""
        return self.d_model

    def parameter_counts(self) -> ParameterCounts:
        """All parameters, and those that one frame uses: of E experts, top_k."""
        total = sum(p.numel() for p in self.parameters())
        idle = 0
        for block, router in self._layers():
            if router is not None:
                idle += cast(ExpertFeedForward, block.feed_forward).idle_parameters(router.top_k)
        return ParameterCounts(total, total - idle)

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
        x, table = self._position(x, torch.arange(x.shape[1], device=x.device), past=0)
        x = self.dropout(x)

        aux_loss = torch.zeros((), device=x.device)
        routing, norms = [], []
        for block, router in self._layers():
            x, decision, norm = block(x, visible, valid, table, router)
            if decision is not None:
                routing.append(decision)
                aux_loss = aux_loss + auxiliary_loss(decision, valid, self.load_balance_weight, self.z_loss_weight)
            if norm is not None:
                norms.append((norm * valid).sum() / valid.sum().clamp(min=1))
        hidden = self.final_norm(x) * valid[..., None]
        return EncoderOutput(hidden, lengths, aux_loss, tuple(routing), torch.stack(norms) if norms else None)

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
            [block.initial_state(batch_size, self.left_context) for block, _ in self._layers()],
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
        x, table = self._position(x, state.frames[:, None] + torch.arange(frames, device=x.device), past)
        blocks = []
        for (block, router), before in zip(self._layers(), state.blocks, strict=True):
            x, after = block.step(x, before, mask, valid, self.left_context, table, router)
            blocks.append(after)
        return self.final_norm(x) * valid[..., None], EncoderState(state.frames + frames, subsampling, blocks)

    def _layers(self) -> list[tuple[TransformerBlock, Router | None]]:
        """Each block with the router it is given."""
        routers = [self.router_of_layer.get(layer) for layer in range(len(self.blocks))]
        return [
            (cast(TransformerBlock, block), None if router is None else cast(Router, self.routers[router]))
            for block, router in zip(self.blocks, routers, strict=True)
        ]

    def _position(self, x: Tensor, frames: Tensor, past: int) -> tuple[Tensor, Tensor | None]:
        """x with its positions added, if they are, and the table of the attentions' positions; see there."""
        if self.positions == "sinusoidal":
            x = x + sinusoids(frames, self.d_model).to(x.dtype)
        return x, POSITIONS[self.positions].table(frames, past, self.d_model, self.num_heads)


def parameter_counts(model: nn.Module) -> ParameterCounts:
    """All parameters of a model that may hold our encoders, and those that one frame uses."""
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for module in model.modules():
        if isinstance(module, OmniRouterEncoder):
            counts = module.parameter_counts()
            idle += counts.total - counts.active
        elif isinstance(module, RoutedFeedForward):
            idle += module.experts.idle_parameters(module.router.top_k)
    return ParameterCounts(total, total - idle)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SigmelError(f"{option}: '{value}' is none of {', '.join(choices)}")
