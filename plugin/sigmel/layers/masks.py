"""Which frames exist, and which may see which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Visible:
    """What the frames of a batch of whole utterances may see.

    Attributes:
        lengths: (B,) int64, frames that exist.
        num_frames: T.
        chunk_size, left_context: see `context_mask`.
    """

    lengths: Tensor
    num_frames: int
    chunk_size: int | None
    left_context: int | None
    _mask: Tensor | None = None

    @property
    def causal(self) -> bool:
        """A frame sees itself and all before it; no frame that exists sees padding, which comes after it."""
        return self.chunk_size == 1 and self.left_context is None

    def mask(self) -> Tensor:
        """(B, 1, T, T) bool, see `attention_mask`; made when it is first asked for."""
        if self._mask is None:
            context = context_mask(self.num_frames, self.chunk_size, self.left_context, self.lengths.device)
            self._mask = attention_mask(valid_frames(self.lengths, self.num_frames), context)
        return self._mask


def valid_frames(lengths: Tensor, num_frames: int) -> Tensor:
    """(B, T) bool, true where a frame belongs to its utterance."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def context_mask(num_frames: int, chunk_size: int | None, left_context: int | None, device: torch.device) -> Tensor:
    """(T, T) bool, true where a query (row) may see a key (column).

    Frames are grouped in chunks of `chunk_size`; a frame sees its whole chunk and `left_context` frames before it.

    Args:
        num_frames: T.
        chunk_size: frames a chunk; 1 is causal, None is the full context.
        left_context: frames before the chunk that are seen; None is all.
        device: where the mask is made.
    """
    if chunk_size is None:
        return torch.ones(num_frames, num_frames, dtype=torch.bool, device=device)
    frame = torch.arange(num_frames, device=device)
    start = (frame // chunk_size * chunk_size)[:, None]  # first frame of the query's chunk
    mask = frame < start + chunk_size
    return mask if left_context is None else mask & (frame >= start - left_context)


def attention_mask(valid: Tensor, context: Tensor) -> Tensor:
    """(B, 1, T, T) bool: keys that exist and are in context. A frame always sees itself, so no row is empty."""
    frame = torch.arange(context.shape[0], device=context.device)
    itself = frame[:, None] == frame
    return (valid[:, None, :] & context | itself)[:, None]
