"""Sigmoid attention (arXiv 2409.04431) for NeMo's Conformer, in place of softmax attention."""

from __future__ import annotations

from typing import Any

import torch
from nemo.collections.asr.parts.submodules.conformer_modules import ConformerLayer
from nemo.collections.asr.parts.submodules.multi_head_attention import (
    MultiHeadAttention,
    RelPositionMultiHeadAttention,
)
from torch import Tensor, nn

from sigmel.errors import SigmelError


class _SigmoidWeights(MultiHeadAttention):
    """Sigmoid weights and the stabilisers of the paper, for an attention of NeMo's.

    The bias is -ln n, n being the number of keys that a frame sees; with the full context these are the frames of the
    utterance. The number follows from NeMo's mask, so that a frame has the same bias in a batch, alone and streamed.
    """

    def stabilize(self) -> None:
        """Add QK-norm, hybrid-norm and LayerScale, see `sigmel.layers.attention.SigmoidAttention`."""
        size = self.h * self.d_k
        self.q_norm, self.k_norm = nn.LayerNorm(self.d_k), nn.LayerNorm(self.d_k)
        self.output_norm = nn.LayerNorm(size)
        self.layer_scale = nn.Parameter(torch.full((size,), 1e-4))

    def forward_qkv(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See NeMo's `MultiHeadAttention`."""
        q, k, v = super().forward_qkv(query, key, value)  # (B, H, T, d)
        return self.q_norm(q), self.k_norm(k), v

    def forward_attention(self, value: Tensor, scores: Tensor, mask: Tensor | None) -> Tensor:
        """See NeMo's `MultiHeadAttention`; the mask (B, T, S) is true where a frame does not see a key."""
        if mask is None:
            mask = torch.zeros(1, *scores.shape[2:], dtype=torch.bool, device=scores.device)
        keys = (~mask).sum(-1, keepdim=True).clamp(min=1)[:, None]  # (B, 1, T, 1)
        weights = torch.sigmoid(scores - keys.to(scores.dtype).log()).masked_fill(mask[:, None], 0.0)
        y = self.linear_out((self.dropout(weights) @ value).transpose(1, 2).flatten(2))
        return self.layer_scale * self.output_norm(y)


class SigmoidAttention(_SigmoidWeights):
    """NeMo's `MultiHeadAttention` (`self_attention_model: abs_pos`) with sigmoid weights."""


class RelPositionSigmoidAttention(_SigmoidWeights, RelPositionMultiHeadAttention):
    """NeMo's `RelPositionMultiHeadAttention` (`self_attention_model: rel_pos`) with sigmoid weights."""


def use_sigmoid_attention(layer: ConformerLayer) -> None:
    """Replace a Conformer layer's `self_attn` by sigmoid attention, which keeps its projections and biases.

    Like NeMo's own attention, this makes a matrix of weights; NeMo's `use_pytorch_sdpa` is for softmax only.

    Raises:
        SigmelError: the layer's attention is local (`self_attention_model: rel_pos_local_attn`).
    """
    old = layer.self_attn
    shared: dict[str, Any] = {
        "n_head": old.h,
        "n_feat": old.h * old.d_k,
        "dropout_rate": old.dropout_rate,
        "max_cache_len": old._max_cache_len,
        "use_bias": old.use_bias,
    }
    if type(old) is RelPositionMultiHeadAttention:
        new = RelPositionSigmoidAttention(pos_bias_u=old.pos_bias_u, pos_bias_v=old.pos_bias_v, **shared)
        new.linear_pos = old.linear_pos
    elif type(old) is MultiHeadAttention:
        new = SigmoidAttention(**shared)
    else:
        raise SigmelError(f"attention: 'sigmoid' cannot stand in for {type(old).__name__}; use rel_pos or abs_pos")
    for name in ("linear_q", "linear_k", "linear_v", "linear_out"):
        setattr(new, name, getattr(old, name))
    new.cache_drop_size = old.cache_drop_size
    new.stabilize()
    layer.self_attn = new
