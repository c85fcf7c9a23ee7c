"""Embedding and classifiers for frames of dMel (arXiv 2407.15835, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.ops import dmel_embed


class DMelEmbedding(nn.Module):
    """An embedding for each channel of a frame; side by side the embeddings go through a linear layer.

    The linear layer is a sum over channels, so it is applied to the tables, of about twenty rows a channel, and not to
    the frames: a frame is then a sum of rows, and no tensor of (B, T, C, size) is made.

    Args:
        channels: C.
        entries: ids a channel, with those of special frames.
        size: of the embedding of a channel.
        d_model: D.
    """

    def __init__(self, channels: int, entries: int, size: int, d_model: int):
        super().__init__()
        self.tables = nn.Parameter(torch.randn(channels, entries, size))
        self.linear = nn.Linear(channels * size, d_model)

    def forward(self, ids: Tensor) -> Tensor:
        """(N, D) from (N, C) uint8 ids."""
        channels, entries, size = self.tables.shape
        if len(ids) < entries:  # for a few frames, as in generation, this takes fewer products than the tables
            rows = self.tables[torch.arange(channels, device=ids.device), ids.long()]  # (N, C, size)
            return self.linear(rows.flatten(1))
        weight = self.linear.weight.unflatten(1, (channels, size))  # (D, C, size)
        tables = torch.einsum("cvs,dcs->cvd", self.tables, weight)
        return dmel_embed(ids, tables) + self.linear.bias


class DMelHeads(nn.Module):
    """A classifier for each channel; all of them take the same vector.

    Args:
        d_model: D.
        channels: C.
        entries: V, ids a channel, with those of special frames.
    """

    def __init__(self, d_model: int, channels: int, entries: int):
        super().__init__()
        self.shape = channels, entries
        self.linear = nn.Linear(d_model, channels * entries)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C, V) logits from (..., D)."""
        return self.linear(x).unflatten(-1, self.shape)

    def loss(self, x: Tensor, ids: Tensor) -> Tensor:
        """Mean cross-entropy, over frames and channels, of (N, C) uint8 ids predicted from (N, D) vectors."""
        return F.cross_entropy(self(x).float().flatten(0, 1), ids.long().flatten())
