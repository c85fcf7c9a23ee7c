"""The width of a search, and the checks of its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sigmel.errors import SigmelError

NO_FRAME = "there is no frame"


@dataclass(frozen=True)
class Search:
    """The width of a search.

    Attributes:
        beam: a path is dropped in a frame where its score is worse than the best by more than this.
        lattice_beam: a path is in the lattice if its score is worse than the best by at most this.
        max_active: how many states a frame keeps at most; the best are kept. Lattices of the backend kaldi ignore
            `max_active` and `min_active`.
        min_active: how many states a frame keeps at least, whatever the beam.
    """

    beam: float = 15.0
    lattice_beam: float = 8.0
    max_active: int = 10_000
    min_active: int = 30

    def __post_init__(self) -> None:
        for name in ("beam", "lattice_beam", "max_active"):
            if not getattr(self, name) > 0:
                raise SigmelError(f"{name}: {getattr(self, name)} must be more than 0")
        if not 0 <= self.min_active <= self.max_active:
            raise SigmelError(f"min_active: {self.min_active} is not between 0 and max_active, {self.max_active}")


def check_frames(log_probs: NDArray[np.float32], num_tokens: int) -> str:
    """The reason why frames cannot be searched, or "" if they can.

    Args:
        log_probs: (T, V) log-probabilities of tokens.
        num_tokens: number of tokens of the graph.

    Raises:
        SigmelError: V is not `num_tokens`.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] != num_tokens:
        raise SigmelError(f"log-probabilities of shape {log_probs.shape}: the graph was made for {num_tokens} tokens")
    best = log_probs.max(axis=1)  # NaN if any of them is
    if bad := np.flatnonzero(~np.isfinite(best)).tolist():
        return f"frame {bad[0]} has a log-probability of NaN or inf, or none above -inf"
    return ""


def check_utterance(log_probs: NDArray[np.float32], num_tokens: int) -> str:
    """`check_frames` for a whole utterance, in which at least one frame is required."""
    return check_frames(log_probs, num_tokens) or ("" if len(log_probs) else NO_FRAME)


def utterances(log_probs: torch.Tensor, lengths: torch.Tensor) -> list[NDArray[np.float32]]:
    """The (T, V) frames of each utterance of a (B, T, V) batch."""
    arrays = log_probs.detach().float().cpu().numpy()
    return [frames[:length] for frames, length in zip(arrays, lengths.tolist(), strict=True)]
