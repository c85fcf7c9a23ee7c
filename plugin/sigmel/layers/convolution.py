"""The convolution module of the Conformer, offline and streamed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvolutionModule(nn.Module):
    """Pointwise GLU, depthwise convolution over time, normalisation, SiLU, pointwise (arXiv 2005.08100, section 2.2).

    Layer normalisation stands where the paper has batch normalisation, so that a frame depends neither on the batch
    nor on padding, and can be streamed.

    Args:
        d_model: D.
        kernel_size: frames seen by the depthwise convolution; odd unless causal.
        causal: see the past only, so that the module can be streamed.
    """

    def __init__(self, d_model: int, kernel_size: int, causal: bool):
        super().__init__()
        self.past = kernel_size - 1 if causal else (kernel_size - 1) // 2
        self.future = kernel_size - 1 - self.past
        self.glu = nn.Linear(d_model, 2 * d_model)
        self.depthwise = nn.Conv1d(d_model, d_model, kernel_size, groups=d_model)
        self.norm = nn.LayerNorm(d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Convolve x (B, T, D); frames where `valid` (B, T) is false count as zeros."""
        x = self._gate(x, valid)
        return self._convolve(F.pad(x, (self.past, self.future)))

    def step(self, x: Tensor, state: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The next chunk x (B, T, D), given the (B, D, kernel - 1) gated frames before it."""
        x = torch.cat([state, self._gate(x, valid)], dim=-1)
        return self._convolve(x), x[..., x.shape[-1] - self.past :]

    def initial_state(self, batch_size: int) -> Tensor:
        """Silence before the first frame: (B, D, kernel - 1) zeros."""
        weight = self.out.weight
        return weight.new_zeros(batch_size, weight.shape[0], self.past)

    def _gate(self, x: Tensor, valid: Tensor) -> Tensor:
        return (F.glu(self.glu(x)) * valid[..., None]).transpose(1, 2)  # (B, D, T)

    def _convolve(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.norm(self.depthwise(x).transpose(1, 2))))
