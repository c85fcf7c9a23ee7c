"""Sequences of text, speech and a speaker's vector, one after the other."""

from __future__ import annotations

from collections.abc import Sequence as Parts
from typing import NamedTuple

import torch
from torch import Tensor

from sigmel.layers.masks import valid_frames

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
    """A batch of sequences, each with its padding at its end, or before it.

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


def join(parts: Parts[Part], channels: int, speaker_size: int, padding_first: bool = False) -> Sequence:
    """Put parts one after the other; an utterance has no gap where a part is shorter than the longest of the batch.

    Args:
        parts: at least one part.
        channels: C, also for sequences without frames.
        speaker_size: S, also for sequences without vectors of speakers.
        padding_first: let all sequences end together. Default: False, all begin together.
    """
    exists = [valid_frames(part.lengths, part.values.shape[1]) for part in parts]  # (B, T) of each part
    kinds = torch.cat([here * part.kind for part, here in zip(parts, exists, strict=True)], dim=1)
    learned = torch.cat([here & part.learned for part, here in zip(parts, exists, strict=True)], dim=1)
    gaps = kinds == PADDING
    longest = int((~gaps).sum(1).max())
    order = gaps.int().argsort(dim=1, stable=True, descending=padding_first)  # gaps go to the end, or to the beginning
    order = order[:, order.shape[1] - longest :] if padding_first else order[:, :longest]
    empty = {
        TEXT: gaps.new_zeros(len(gaps), 0, dtype=torch.int64),
        SPEECH: gaps.new_zeros(len(gaps), 0, channels, dtype=torch.uint8),
        SPEAKER: gaps.new_zeros(len(gaps), 0, speaker_size, dtype=torch.float32),
    }
    ordered = []
    for kind, values in empty.items():
        own = [number for number, part in enumerate(parts) if part.kind == kind]
        values = torch.cat([values, *(parts[number].values for number in own)], dim=1)
        ordered.append(values[torch.cat([gaps[:, :0], *(exists[number] for number in own)], dim=1)])
    return Sequence(kinds.gather(1, order), learned.gather(1, order), *ordered)
