"""A vector that tells voices apart, without training."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmel.features.dmel import DMelTokenizer
from sigmel.layers.masks import valid_frames


def voice_print(dmel: DMelTokenizer, speech: Tensor, lengths: Tensor) -> Tensor:
    """(B, 2 C) mean and deviation over time of each channel: the average sound of a voice and its recording.

    A model that was trained with other vectors of speakers takes those in place of this vector.

    Args:
        dmel: made the ids.
        speech: (B, T, C) uint8 ids.
        lengths: (B,).
    """
    mel = dmel.decode(speech, lengths) * valid_frames(lengths, speech.shape[1])[..., None]
    count = lengths.clamp(min=1)[:, None]
    mean = mel.sum(1) / count
    square = mel.square().sum(1) / count
    return torch.cat([mean, (square - mean.square()).clamp(min=0).sqrt()], dim=-1)
