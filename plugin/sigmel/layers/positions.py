"""Positions of frames: sinusoids added to the input, and schemes that act within an attention.

Each scheme is a module of an attention; its table, which does not depend on the layer, is made once for all layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
    """Rotary position embedding (arXiv 2104.09864): pairs (x[i], x[i + d/2]) are turned by an angle.

    Args:
        x: (B, T, H, d) queries, keys, or both side by side.
        angles: (T, d) or (B, T, d) from `sinusoids(positions, d)`: sines and cosines.
    """
    sin, cos = angles[..., None, :].to(x.dtype).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Positions(nn.Module):
    """No positions: an attention that does not depend on where frames stand; the base of the other schemes.

    Args:
        d_model: D.
        num_heads: H.

    Attributes:
        biased: whether `scores` changes the queries or gives something to add.
        slopes: (H,) by how much a score falls with each frame of distance, or None.
    """

    biased = False
    slopes: Tensor | None

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.register_buffer("slopes", None, persistent=False)

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """What all layers share, for frames and the past that they see.

        Args:
            frames: (T,) or (B, T) numbers of the frames.
            past: P, frames before these that are still seen.
            d_model, num_heads: D and H.
        """
        return None

    def turn(self, q_and_k: Tensor, table: Tensor | None) -> Tensor:
        """Queries and keys (B, T, 2 * H, d) of the frames, changed by the positions of these."""
        return q_and_k

    def scores(self, q: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The queries (B, H, T, d) to multiply with the keys, and a bias to add to the scaled scores, or None.

        The bias is (H, T, P + T) or (B, H, T, P + T): keys of P + T frames in a row, queries of the last T.
        """
        return q, None


class Rotary(Positions):
    """Rotary positions: queries and keys are turned by angles that grow with the frame's number (arXiv 2104.09864)."""

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """(T, d) or (B, T, d) angles, see `rotate`."""
        return sinusoids(frames, d_model // num_heads)

    def turn(self, q_and_k: Tensor, table: Tensor | None) -> Tensor:
        """See `Positions`."""
        assert table is not None
        return rotate(q_and_k, table)


class Alibi(Positions):
    """ALiBi (arXiv 2108.12409, section 3): scores fall with the distance of a key, to either side.

    With each frame of distance, a score of head h of H falls by 2 ** (-8 h / H).
    """

    biased = True

    def __init__(self, d_model: int, num_heads: int):
        super().__init__(d_model, num_heads)
        self.slopes = 2.0 ** (-8.0 / num_heads * torch.arange(1, num_heads + 1))

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """(T, P + T) distances."""
        keys = torch.arange(past + frames.shape[-1], device=frames.device)
        return (keys[past:, None] - keys).abs()

    def scores(self, q: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `Positions`."""
        assert table is not None
        assert self.slopes is not None
        return q, -self.slopes.to(q.dtype)[:, None, None] * table


class Relative(Positions):
    """Relative positions: scores of content and of distance, each with a learned bias of the query.

    A score is `(q + u) k + (q + v) W r`, r being the sinusoids of the distance (arXiv 1901.02860, section 3.3), as in
    the Conformer (arXiv 2005.08100).
    """

    biased = True

    def __init__(self, d_model: int, num_heads: int):
        super().__init__(d_model, num_heads)
        self.proj = nn.Linear(d_model, d_model, bias=False)
        self.u = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))
        self.v = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """(P + 2 T - 1, D) sinusoids of the distances, from the greatest (first key, last query) down."""
        count = frames.shape[-1]
        return sinusoids(past + count - 1 - torch.arange(past + 2 * count - 1, device=frames.device), d_model)

    def scores(self, q: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """See `Positions`."""
        assert table is not None
        count = q.shape[2]
        keys = table.shape[0] - count + 1
        distances = (
            self.proj(table.to(q.dtype)).unflatten(-1, (self.u.shape[0], -1)).permute(1, 2, 0)
        )  # (H, d, P+2T-1)
        by_distance = (q + self.v[:, None]) @ distances * q.shape[-1] ** -0.5
        return q + self.u[:, None], by_key(by_distance, keys)


def by_key(x: Tensor, keys: int) -> Tensor:
    """Scores of distances, in columns by distance, as scores of keys.

    Args:
        x: (..., T, K + T - 1); column c of row t is for the key that is `K - 1 - c` frames before query t, and query t
            stands at key `K - T + t`.
        keys: K.

    Returns:
        (..., T, K), read from x as if its rows were one element shorter.
    """
    count = x.shape[-2]
    rows = F.pad(x, (0, 1)).flatten(-2)  # rows begin K + T apart here, and are read K + T - 1 apart
    return rows[..., count - 1 :][..., :-1].unflatten(-1, (count, keys + count - 1))[..., :keys]
