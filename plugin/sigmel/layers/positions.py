"""Where a frame stands: sinusoids added to the input, or rotations of queries and keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (arXiv 1706.03762, section 3.5), sines first, then cosines.

    Args:
        positions: (..., T) frame numbers.
        dim: an even size D.

    Returns:
        (..., T, D) float32.
    """
    rate = torch.exp(torch.arange(dim // 2, device=positions.device) * (-math.log(10000.0) / (dim // 2)))
    angle = positions[..., None].float() * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary position embedding (arXiv 2104.09864): pairs (x[i], x[i + d/2]) are turned by their angle.

    Args:
        x: (B, T, H, d) queries or keys, or both side by side.
        angles: (T, d) or (B, T, d) from `sinusoids(positions, d)`: sines and cosines.
    """
    sin, cos = angles[..., None, :].to(x.dtype).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
