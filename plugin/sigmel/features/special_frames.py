"""Frames of dMel that pad, begin and end utterances: whole frames, whose ids follow those of the bins."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sigmel.layers.masks import valid_frames


class SpecialIds(NamedTuple):
    """The ids of special frames."""

    pad: int
    bos: int
    eos: int


def special_ids(bins: int) -> SpecialIds:
    """The ids of special frames beside bins with the ids 0 to bins - 1."""
    return SpecialIds(bins, bins + 1, bins + 2)


def add_special(ids: Tensor, lengths: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """(B, T + 2, C) ids with a bos frame before each utterance and an eos frame after it; their (B,) lengths.

    Args:
        ids: (B, T, C) uint8.
        lengths: (B,) int64.
        bins: values of a channel.
    """
    special, lengths = special_ids(bins), lengths + 2
    framed = ids.new_full((ids.shape[0], ids.shape[1] + 2, ids.shape[2]), special.eos)
    framed[:, 0] = special.bos
    framed[:, 1:-1] = ids.where(valid_frames(lengths - 2, ids.shape[1])[..., None], special.eos)
    return framed.masked_fill_(~valid_frames(lengths, framed.shape[1])[..., None], special.pad), lengths
