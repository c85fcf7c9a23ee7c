"""Where a frame stands: sinusoids added to the input, or what an attention does about it.

Each scheme is a module of an attention. What does not depend on the layer, its table, is made once for all of them.
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
    """Rotary position embedding (arXiv 2104.09864): pairs (x[i], x[i + d/2]) are turned by their angle.

    Args:
        x: (B, T, H, d) queries or keys, or both side by side.
        angles: (T, d) or (B, T, d) from `sinusoids(positions, d)`: sines and cosines.
    """
    sin, cos = angles[..., None, :].to(x.dtype).chunk(2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Positions(nn.Module):
    """An attention that does not ask where its frames stand.

    Args:
        d_model: D.
        num_heads: H.

    Attributes:
        biased: positions are added to the scores, or multiplied with the queries alone.
        slopes: (H,) what a score loses with each frame of distance, or None.
    """

    biased = False
    slopes: Tensor | None

    def __init__(self, d_model: int, num_heads: int):
        super().__init__()
        self.register_buffer("slopes", None, persistent=False)

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """What all layers share.

        Args:
            frames: (T,) or (B, T) numbers of the frames.
            past: frames before them that are still seen, P.
            d_model, num_heads: D and H.
        """
        return None

    def turn(self, q_and_k: Tensor, table: Tensor | None) -> Tensor:
        """Queries and keys (B, T, 2 * H, d) of the frames, changed by where they stand."""
        return q_and_k

    def scores(self, q: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The queries (B, H, T, d) to multiply with the keys, and what is added to the scaled scores.

        The latter is (B or none, H, T, P + T): the keys are those of P + T frames in a row, the queries the last T.
        """
        return q, None


class Rotary(Positions):
    """Queries and keys are turned by an angle that grows with the frame's number (arXiv 2104.09864)."""

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """(T, d) or (B, T, d) angles, see `rotate`."""
        return sinusoids(frames, d_model // num_heads)

    def turn(self, q_and_k: Tensor, table: Tensor | None) -> Tensor:
        """See `Positions`."""
        assert table is not None
        return rotate(q_and_k, table)


class Alibi(Positions):
    """A score loses a slope a frame of distance, to either side; head h of H has the slope 2 ** (-8 h / H).

    arXiv 2108.12409, section 3.
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
    """Scores of content and of distance, each with a learned bias of the query.

    `(q + u) k + (q + v) W r`, r being the sinusoids of the distance (arXiv 1901.02860, section 3.3), as the Conformer
    has it (arXiv 2005.08100).
    """

    biased = True

    def __init__(self, d_model: int, num_heads: int):
        super().__init__(d_model, num_heads)
        self.proj = nn.Linear(d_model, d_model, bias=False)
        self.u = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))
        self.v = nn.Parameter(torch.zeros(num_heads, d_model // num_heads))

    @staticmethod
    def table(frames: Tensor, past: int, d_model: int, num_heads: int) -> Tensor | None:
        """(P + 2 T - 1, D) sinusoids of the distances, from that of the first key and the last query down."""
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
    """Columns that count distances become columns that count keys.

    Args:
        x: (..., T, K + T - 1); column c of row t is for the key that is `K - 1 - c` frames before the query t, which
            stands where the key `K - T + t` does.
        keys: K.

    Returns:
        (..., T, K), made by reading x with rows that are one longer, or shorter, than they are.
    """
    count = x.shape[-2]
    rows = F.pad(x, (0, 1)).flatten(-2)  # in which the rows begin K + T apart, and what is wanted K + T - 1
    return rows[..., count - 1 :][..., :-1].unflatten(-1, (count, keys + count - 1))[..., :keys]
