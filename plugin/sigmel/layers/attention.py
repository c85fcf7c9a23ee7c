"""Multi-head self-attention, offline and streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.layers.masks import Visible
from sigmel.layers.positions import Positions, Relative
from sigmel.ops import sigmoid_attention


@dataclass
class AttentionState:
    """Keys and values of the L frames before a chunk, each (B, H, L, d); without a left context L grows."""

    keys: Tensor
    values: Tensor


class MultiHeadAttention(nn.Module):
    """Self-attention over (B, T, D); a subclass says how scores become weights.

    Args:
        d_model: D.
        num_heads: H, which divides D.
        positions: how queries, keys and scores depend on where frames stand.
        keys: the number of keys that a frame of a chunked encoder sees; None if a frame sees its whole utterance, or
            everything before it. Default: None.
        qk_norm: normalise queries and keys over the features of a head, before they are turned. Default: False.
        hybrid_norm: normalise the output. Default: False.
        layer_scale: initial value of a learned vector that scales the output (LayerScale, arXiv 2103.17239); None for
            no such vector. Default: None.
    """

    needs_left_context = False

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        positions: Positions,
        keys: int | None = None,
        qk_norm: bool = False,
        hybrid_norm: bool = False,
        layer_scale: float | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.positions = positions
        self.keys = keys
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.q_norm = nn.LayerNorm(d_model // num_heads) if qk_norm else None
        self.k_norm = nn.LayerNorm(d_model // num_heads) if qk_norm else None
        self.output_norm = nn.LayerNorm(d_model) if hybrid_norm else None
        self.layer_scale = None if layer_scale is None else nn.Parameter(torch.full((d_model,), layer_scale))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Visible, table: Tensor | None) -> Tensor:
        """(B, H, T, d) outputs for queries, keys and values (B, H, T, d) of whole utterances."""
        return self.attend_masked(q, k, v, visible.mask(), table)

    def attend_masked(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, table: Tensor | None) -> Tensor:
        """(B, H, T, d) outputs for queries (B, H, T, d), keys and values (B, H, S, d), mask (B, 1, T, S) bool."""
        raise NotImplementedError

    def forward(self, x: Tensor, visible: Visible, table: Tensor | None = None) -> Tensor:
        """Attend within x.

        Args:
            x: (B, T, D).
            visible: which frames a frame may see.
            table: of `positions`.
        """
        q, k, v = self._project(x, table)
        return self._merge(self.attend(q, k, v, visible, table))

    def step(
        self, x: Tensor, state: AttentionState, mask: Tensor, left_context: int | None, table: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Attend from the next chunk to itself and to the frames before it.

        Args:
            x: (B, T, D), one chunk.
            state: the L frames before the chunk.
            mask: (B, 1, T, L + T) bool.
            left_context: frames kept for the next chunk; None keeps all.
            table: of `positions`, for this chunk after L frames.
        """
        q, k, v = self._project(x, table)
        k, v = torch.cat([state.keys, k], dim=2), torch.cat([state.values, v], dim=2)
        kept = 0 if left_context is None else k.shape[2] - left_context
        return self._merge(self.attend_masked(q, k, v, mask, table)), AttentionState(k[:, :, kept:], v[:, :, kept:])

    def initial_state(self, batch_size: int, left_context: int | None) -> AttentionState:
        """An empty past: zeros that the mask of the first steps hides."""
        weight = self.out_proj.weight
        head = weight.shape[0] // self.num_heads
        empty = weight.new_zeros(batch_size, self.num_heads, left_context or 0, head)
        return AttentionState(empty, empty)

    def _project(self, x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.in_proj(x).unflatten(-1, (3 * self.num_heads, -1))  # (B, T, 3 * H, d)
        q_and_k, v = heads.split((2 * self.num_heads, self.num_heads), dim=2)
        # Queries and keys are turned together, with half as many operations.
        q, k = self.positions.turn(self._normalize(q_and_k), table).chunk(2, dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _normalize(self, q_and_k: Tensor) -> Tensor:
        """Queries and keys (B, T, 2 * H, d)."""
        if self.q_norm is None or self.k_norm is None:
            return q_and_k
        q, k = q_and_k.chunk(2, dim=2)
        return torch.cat([self.q_norm(q), self.k_norm(k)], dim=2)

    def _merge(self, heads: Tensor) -> Tensor:
        y = self.out_proj(heads.transpose(1, 2).flatten(2))
        if self.output_norm is not None:
            y = self.output_norm(y)
        return y if self.layer_scale is None else self.layer_scale * y


class SoftmaxAttention(MultiHeadAttention):
    """Scaled dot-product attention (arXiv 1706.03762), through torch's fused kernels."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Visible, table: Tensor | None) -> Tensor:
        """See `MultiHeadAttention`."""
        if visible.causal and not self.positions.biased:
            return _softmax_attention(q, k, v, is_causal=True)  # half the work, and no mask
        return super().attend(q, k, v, visible, table)

    def attend_masked(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, table: Tensor | None) -> Tensor:
        """See `MultiHeadAttention`."""
        q, bias = self.positions.scores(q, table)
        if bias is not None:
            mask = torch.where(mask, bias.to(q.dtype), -math.inf)
        return _softmax_attention(q, k, v, mask)


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """`F.scaled_dot_product_attention`, in float32 on a CPU, whose backward pass in bfloat16 is six times slower."""
    if v.device.type != "cpu" or v.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
    if mask is not None and mask.is_floating_point():
        mask = mask.float()
    with torch.autocast("cpu", enabled=False):
        heads = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, is_causal=is_causal)
    return heads.to(v.dtype)


class SigmoidAttention(MultiHeadAttention):
    """Attention whose weights are sigmoids (arXiv 2409.04431), with the stabilisers of the paper.

    The bias of the scores is -ln n for n keys: the frames of the utterance, or in a chunked encoder the keys that a
    frame sees (`keys`), so that streamed and whole utterances agree.

    The fused op serves all positions but relative ones, for which a matrix of weights is made.

    Args:
        d_model, num_heads, positions, keys: see `MultiHeadAttention`.
        qk_norm, hybrid_norm, layer_scale: see `MultiHeadAttention`. Defaults: True, True and 1e-4.
        bias: of the scores, in place of -ln n. Default: None.
    """

    needs_left_context = True  # in a chunked encoder, where the number of keys must be limited

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        positions: Positions,
        keys: int | None = None,
        qk_norm: bool = True,
        hybrid_norm: bool = True,
        layer_scale: float | None = 1e-4,
        bias: float | None = None,
    ):
        super().__init__(d_model, num_heads, positions, keys, qk_norm, hybrid_norm, layer_scale)
        self.bias = bias

    def attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Visible, table: Tensor | None) -> Tensor:
        """See `MultiHeadAttention`."""
        if isinstance(self.positions, Relative):
            return self.attend_masked(q, k, v, visible.mask(), table, visible.lengths)
        return sigmoid_attention(
            q,
            k,
            v,
            bias=self._bias(visible.lengths),
            chunk_size=visible.chunk_size,
            left_context=visible.left_context,
            alibi_slopes=self.positions.slopes,
            query_lengths=visible.lengths,
            key_lengths=visible.lengths,
        )

    def attend_masked(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, table: Tensor | None, lengths: Tensor | None = None
    ) -> Tensor:
        """See `MultiHeadAttention`; `lengths` (B,) are those of whole utterances, None in a step."""
        q, by_position = self.positions.scores(q, table)
        bias = self._bias(lengths)
        scores = (q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
        scores = scores + (bias[..., None, None] if isinstance(bias, Tensor) else bias)
        if by_position is not None:
            scores = scores + by_position
        return torch.where(mask, torch.sigmoid(scores), 0.0).to(v.dtype) @ v

    def _bias(self, lengths: Tensor | None) -> float | Tensor:
        """The bias of all utterances, or (B, 1) of each."""
        if self.bias is not None:
            return self.bias
        if self.keys is not None:
            return -math.log(self.keys)
        assert lengths is not None  # only chunked encoders stream
        return -lengths.clamp(min=1).float().log()[:, None]
