"""Masks of frames: those that exist, those that a frame may see, and spans hidden in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Visible:
    """The frames that each frame of a batch of whole utterances may see.

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
        """Whether a frame sees itself and all frames before it; padding, which comes after them, is not seen."""
        return self.chunk_size == 1 and self.left_context is None

    def mask(self) -> Tensor:
        """(B, 1, T, T) bool, see `attention_mask`; the mask is made when it is first asked for."""
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


def attention_mask(exists: Tensor, context: Tensor) -> Tensor:
    """(B, 1, T, S) bool, true where a frame may see a key: keys that exist and are in its context, and itself.

    A frame sees itself even if it is padding, so that no row is empty.

    Args:
        exists: (B, S) bool, the keys that exist.
        context: (T, S) bool; the frames are the last T of the S keys.
    """
    frames, keys = context.shape
    key = torch.arange(keys, device=context.device)
    itself = key[keys - frames :, None] == key
    return (exists[:, None, :] & context | itself)[:, None]


def masked_spans(exists: Tensor, share: float, span: float) -> Tensor:
    """(B, L) bool, true at random spans that cover about a share of the positions that exist.

    Args:
        exists: (B, L) bool.
        share: 0 to 1.
        span: mean length of a span, at least 1.
    """
    begins = torch.rand(exists.shape, device=exists.device) < share / span / (1 - share + share / span)
    ends = torch.rand(exists.shape, device=exists.device) >= 1 - 1 / span
    place = torch.arange(exists.shape[1], device=exists.device).expand(exists.shape)
    # A position is in a span that has begun since the last end; a span may begin where another ends.
    begun = torch.where(begins, place, -1).cummax(1).values
    ended = torch.where(ends, place, 0).cummax(1).values
    return (begun >= ended) & exists
