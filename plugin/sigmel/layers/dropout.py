"""Dropout that is fast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """`nn.Dropout`, two to three times as fast on a CPU.

    On a CPU torch draws a number for each element, one after the other, which can take half of the training time of a
    small model. Here four elements share a random integer, so that the probability is exact to 2 ** -16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x; in training a share of its elements is zero, and the others are larger to make up for these."""
        if not (self.training and 0 < self.p < 1) or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        first_kept = min(round(self.p * 2**16) - 2**15, 2**15 - 1)
        kept = (draws[: x.numel()] >= first_kept).view(x.shape)
        return x * (kept.to(x.dtype) * (1 / (1 - self.p)))
