"""How widely to search, and which frames can be searched at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigmel.errors import SigmelError

NO_FRAME = "there is no frame"


@dataclass(frozen=True)
class Search:
    """How widely to search.

    Attributes:
        beam: a path is given up in a frame where it is worse than the best one by more than this.
        lattice_beam: a path is in the lattice if it is worse than the best one by at most this.
        max_active: how many states a frame may have; the best are kept.
        min_active: how many a frame has at least, whatever the beam.
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
    """Why frames cannot be searched, "" if they can.

    Args:
        log_probs: (T, V) log-probabilities of tokens.
        num_tokens: V of the graph.

    Raises:
        SigmelError: V is not the graph's.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] != num_tokens:
        raise SigmelError(f"log-probabilities of shape {log_probs.shape}: the graph was made for {num_tokens} tokens")
    best = log_probs.max(axis=1)  # NaN where one is
    if bad := np.flatnonzero(~np.isfinite(best)).tolist():
        return f"frame {bad[0]} has a log-probability of NaN or inf, or none above -inf"
    return ""


def check_utterance(log_probs: NDArray[np.float32], num_tokens: int) -> str:
    """The same of a whole utterance, which has to have a frame."""
    return check_frames(log_probs, num_tokens) or ("" if len(log_probs) else NO_FRAME)
