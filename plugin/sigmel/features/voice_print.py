"""A vector of how a voice sounds, made without training."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmel.features.dmel import DMelTokenizer
from sigmel.layers.masks import valid_frames


def voice_print(dmel: DMelTokenizer, speech: Tensor, lengths: Tensor) -> Tensor:
    """(B, 2 C) mean and deviation over time of each channel: how a voice, and its recording, sound on the whole.

    A vector of a speaker that needs no training; any other of the size that the model was trained with may be given.

    Args:
        dmel: what made the ids.
        speech: (B, T, C) uint8 ids.
        lengths: (B,).
    """
    mel = dmel.decode(speech, lengths) * valid_frames(lengths, speech.shape[1])[..., None]
    count = lengths.clamp(min=1)[:, None]
    mean = mel.sum(1) / count
    square = mel.square().sum(1) / count
    return torch.cat([mean, (square - mean.square()).clamp(min=0).sqrt()], dim=-1)
