"""Sequences of text, speech and a speaker's vector, one after the other."""

from __future__ import annotations

from collections.abc import Sequence as Parts
from typing import NamedTuple

import torch
from torch import Tensor

PADDING, TEXT, SPEECH, SPEAKER = range(4)


class Part(NamedTuple):
    """A part of each utterance's sequence.

    Attributes:
        kind: TEXT, SPEECH or SPEAKER.
        values: (B, T) int64 tokens, (B, T, C) uint8 frames, or (B, 1, S) float vectors of speakers.
        lengths: (B,) int64, the number of values of each utterance.
        learned: whether the values count in the loss.
    """

    kind: int
    values: Tensor
    lengths: Tensor
    learned: bool


class Sequence(NamedTuple):
    """A batch of sequences, each with its padding at its end.

    Attributes:
        kinds: (B, L) int64.
        learned: (B, L) bool, the positions that are predicted from the position before.
        text: (N,) int64, all tokens, utterance by utterance, in the order of their positions.
        speech: (N, C) uint8, all frames, in the same order.
        speakers: (N, S) float, all vectors of speakers, in the same order.
    """

    kinds: Tensor
    learned: Tensor
    text: Tensor
    speech: Tensor
    speakers: Tensor

    @property
    def lengths(self) -> Tensor:
        """(B,) int64, positions that are no padding."""
        return (self.kinds != PADDING).sum(1)


def join(parts: Parts[Part], channels: int, speaker_size: int) -> Sequence:
    """Put parts one after the other; an utterance has no gap where a part is shorter than the longest of the batch.

    Args:
        parts: at least one part.
        channels: C, also for sequences without frames.
        speaker_size: S, also for sequences without vectors of speakers.
    """
    lengths = torch.stack([part.lengths for part in parts], dim=1)  # (B, parts)
    starts = lengths.cumsum(1) - lengths
    device, batch, longest = lengths.device, len(lengths), int(lengths.sum(1).max())
    kinds = torch.zeros(batch, longest, dtype=torch.int64, device=device)
    learned = torch.zeros_like(kinds, dtype=torch.bool)
    source = torch.full_like(kinds, -1)  # which of the values of its kind stands at a position
    values: dict[int, list[Tensor]] = {
        TEXT: [torch.zeros(0, dtype=torch.int64, device=device)],
        SPEECH: [torch.zeros(0, channels, dtype=torch.uint8, device=device)],
        SPEAKER: [torch.zeros(0, speaker_size, device=device)],
    }
    position = torch.arange(longest, device=device)
    for number, part in enumerate(parts):
        within = position - starts[:, number, None]  # (B, L)
        inside = (within >= 0) & (within < lengths[:, number, None])
        kinds.masked_fill_(inside, part.kind)
        learned.masked_fill_(inside, part.learned)
        before = sum(len(known) for known in values[part.kind])
        row = torch.arange(batch, device=device)[:, None] * part.values.shape[1]
        source = torch.where(inside, before + row + within, source)
        values[part.kind].append(part.values.flatten(0, 1))
    ordered = [torch.cat(values[kind])[source[kinds == kind]] for kind in (TEXT, SPEECH, SPEAKER)]
    return Sequence(kinds, learned, *ordered)
