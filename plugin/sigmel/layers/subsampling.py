"""Subsampling: `factor` feature frames become an encoder frame, made of these and of frames before them.

An output depends on no feature frame after its own group of `factor` frames, and a group cut short by the end of the
utterance is filled with zeros. So padding changes nothing, no frame is lost at the end, and streaming needs no
look-ahead.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmel.errors import SigmelError


def whole_groups(x: Tensor, factor: int) -> Tensor:
    """Zeros after x (B, T, F), so that T is a multiple of `factor`."""
    frames = (x.shape[1] + factor - 1) // factor * factor
    return F.pad(x, (0, 0, 0, factor - 1))[:, :frames]  # torch.export cannot follow a padding of -T % factor


class StackSubsampling(nn.Module):
    """`factor` frames side by side, then one linear layer (the front end of arXiv 2507.05724).

    Args:
        input_size: features a frame.
        d_model: D.
        factor: frames stacked.
    """

    def __init__(self, input_size: int, d_model: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(factor * input_size, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ceil(T / factor), D) from (B, T, F)."""
        return self.linear(whole_groups(x, self.factor).unflatten(1, (-1, self.factor)).flatten(2))

    def step(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The output of `forward`, and the state, which is empty."""
        return self(x), state

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """An empty state."""
        return []


class ConvSubsampling(nn.Module):
    """Convolutions of stride 2 over time and frequency, depthwise-separable after the first, then one linear layer.

    Args:
        input_size: features a frame.
        d_model: D.
        factor: a power of two; log2(factor) convolutions.
        channels: channels of every convolution.

    Raises:
        SigmelError: the factor is no power of two.
    """

    def __init__(self, input_size: int, d_model: int, factor: int, channels: int):
        super().__init__()
        stages = int(math.log2(max(factor, 1)))
        if factor < 2 or 2**stages != factor:
            raise SigmelError(f"subsampling_factor: {factor} is no power of two (2, 4, 8, ...), as 'conv' needs")
        self.factor = factor
        self.channels = channels
        self.bins = [input_size]  # frequency bins before each convolution, and after the last
        for _ in range(stages):
            self.bins.append((self.bins[-1] + 1) // 2)
        self.strided = nn.ModuleList()
        self.pointwise = nn.ModuleList()
        for n in range(stages):
            inputs = channels if n else 1
            groups = channels if n else 1
            self.strided.append(nn.Conv2d(inputs, channels, 3, stride=2, padding=(0, 1), groups=groups))
            self.pointwise.append(nn.Conv2d(channels, channels, 1) if n else nn.Identity())
        for conv in (*self.strided, *self.pointwise):
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                # Unlike torch's default, this keeps the variance through the ReLUs.
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)
        self.linear = nn.Linear(channels * self.bins[-1], d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ceil(T / factor), D) from (B, T, F)."""
        return self.step(x, self.initial_state(x.shape[0]))[0]

    def step(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The next frames x (B, T, F), given the last input frame of each convolution."""
        x = whole_groups(x, self.factor)[:, None]  # (B, 1, T, F)
        last = []
        for strided, pointwise, before in zip(self.strided, self.pointwise, state, strict=True):
            last.append(x[:, :, -1:])
            x = F.relu(pointwise(strided(torch.cat([before, x], dim=2))))
        return self.linear(x.transpose(1, 2).flatten(2)), last

    def initial_state(self, batch_size: int) -> list[Tensor]:
        """Silence before the first frame: for each convolution (B, its input channels, 1, bins) zeros."""
        weight = self.linear.weight
        channels = [1] + [self.channels] * (len(self.strided) - 1)
        return [weight.new_zeros(batch_size, c, 1, b) for c, b in zip(channels, self.bins[:-1], strict=True)]
