"""Reduction of the losses of a batch to one number."""

from __future__ import annotations

from torch import Tensor

from sigmel.errors import SigmelError


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The (B,) losses themselves ("none"), their "sum" or their "mean".

    Raises:
        SigmelError: the reduction is unknown.
    """
    if reduction not in ("none", "sum", "mean"):
        raise SigmelError(f"reduction {reduction!r} is unknown; one of none, sum, mean")
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()
