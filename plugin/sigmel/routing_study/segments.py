"""How long a layer stays with one expert: segments in time (arXiv 2507.05724)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.routing_study.paths import independent


class Segments(NamedTuple):
    """Frames of one utterance, one after the other, that one layer sends to one expert.

    Attributes:
        experts: (S,) of each segment.
        frames: (S,) int64, how long it is.
    """

    experts: Tensor
    frames: Tensor


def segments(experts: Tensor, utterances: Tensor) -> Segments:
    """The segments of one layer.

    Args:
        experts: (N,) first choices in it, of the frames of utterances one after the other.
        utterances: (U,) int64, how many frames each utterance has; their sum is N.
    """
    begins = torch.ones(len(experts), dtype=torch.bool)
    begins[1:] = experts[1:] != experts[:-1]
    begins[utterances.cumsum(0)[:-1]] = True
    where = begins.nonzero().flatten()
    return Segments(experts[where], where.diff(append=torch.tensor([len(experts)])))


def segment_table(experts: Tensor, utterances: Tensor, frame_seconds: float, seed: int) -> list[dict[str, Any]]:
    """How long the segments are, in each layer and for each expert.

    Args:
        experts: (N, L) first choices.
        utterances: see `segments`.
        frame_seconds: between two frames.
        seed: of the choices dealt out anew, see `sigmel.routing_study.paths.independent`.

    Returns:
        For each layer, first for all its experts ("expert" is None) and then for each that was chosen: "layer" (from
        1), "expert", how many "segments", "mean_frames" and "mean_seconds" of them, and "independent", the mean
        seconds of the same choices dealt out to the frames anew.
    """
    rows = []
    layers = zip(experts.unbind(1), independent(experts, seed).unbind(1), strict=True)
    for layer, (chosen, dealt) in enumerate(layers, start=1):
        found, by_chance = segments(chosen, utterances), segments(dealt, utterances)
        for expert in (None, *chosen.unique().tolist()):
            mean, count = _mean_frames(found, expert)
            chance, _ = _mean_frames(by_chance, expert)
            row = {"layer": layer, "expert": expert, "segments": count, "mean_frames": mean}
            rows.append(row | {"mean_seconds": mean * frame_seconds, "independent": chance * frame_seconds})
    return rows


def _mean_frames(found: Segments, expert: int | None) -> tuple[float, int]:
    frames = found.frames if expert is None else found.frames[found.experts == expert]
    return frames.double().mean().item(), len(frames)
