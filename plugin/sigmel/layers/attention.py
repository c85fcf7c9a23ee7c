"""Multi-head self-attention, offline and streamed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.layers.positions import rotate


@dataclass
class AttentionState:
    """Keys and values of the frames before a chunk, each (B, H, L, d). L is the left context, or grows without one."""

    keys: Tensor
    values: Tensor


class MultiHeadAttention(nn.Module):
    """Self-attention over (B, T, D); a subclass says how scores become weights (`attend`).

    Args:
        d_model: D.
        num_heads: H, which divides D.
    """

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """(B, H, T, d) outputs for queries (B, H, T, d), keys and values (B, H, S, d), mask (B, 1, T, S) bool."""
        raise NotImplementedError

    def forward(self, x: Tensor, mask: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Attend within x.

        Args:
            x: (B, T, D).
            mask: (B, 1, T, T) bool, true where a query may see a key.
            rotary: angles for `rotate`, or None.
        """
        q, k, v = self._project(x, rotary)
        return self._merge(self.attend(q, k, v, mask))

    def step(
        self, x: Tensor, state: AttentionState, mask: Tensor, left_context: int | None, rotary: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Attend from the next chunk to itself and to the frames before it.

        Args:
            x: (B, T, D), one chunk.
            state: what came before, L frames.
            mask: (B, 1, T, L + T) bool.
            left_context: frames kept for the next chunk; None keeps all.
            rotary: angles of this chunk; the keys of the state were turned when they were new.
        """
        q, k, v = self._project(x, rotary)
        k, v = torch.cat([state.keys, k], dim=2), torch.cat([state.values, v], dim=2)
        kept = 0 if left_context is None else k.shape[2] - left_context
        return self._merge(self.attend(q, k, v, mask)), AttentionState(k[:, :, kept:], v[:, :, kept:])

    def initial_state(self, batch_size: int, left_context: int | None) -> AttentionState:
        """An empty past: zeros that the mask of the first steps hides."""
        weight = self.out_proj.weight
        head = weight.shape[0] // self.num_heads
        empty = weight.new_zeros(batch_size, self.num_heads, left_context or 0, head)
        return AttentionState(empty, empty)

    def _project(self, x: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.in_proj(x).unflatten(-1, (3 * self.num_heads, -1))  # (B, T, 3 * H, d)
        q_and_k, v = heads.split((2 * self.num_heads, self.num_heads), dim=2)
        if rotary is not None:
            q_and_k = rotate(q_and_k, rotary)  # both at once: half as many operations
        q, k = q_and_k.chunk(2, dim=2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _merge(self, heads: Tensor) -> Tensor:
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class SoftmaxAttention(MultiHeadAttention):
    """Scaled dot-product attention (arXiv 1706.03762), through torch's fused kernels."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
