"""Drawing from the probabilities that a model gives."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmel.errors import SigmelError


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(...) int64 drawn from (..., V) logits.

    Args:
        logits: unnormalised log-probabilities.
        temperature: the logits are divided by this; 0 takes the most probable class. Default: 1.
        top_k: draw from the k most probable classes only; None for all. Default: None.
        top_p: draw only from the most probable classes that together have this probability. Default: 1.
        generator: of the random numbers. Default: torch's own.

    Raises:
        SigmelError: a setting out of its range, by name.
    """
    if temperature < 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        given = f"{temperature}, {top_k} and {top_p}"
        raise SigmelError(f"temperature, top_k, top_p: {given}, expected at least 0, at least 1, and in (0, 1]")
    if temperature == 0 or top_k == 1:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        ordered, index = probabilities.sort(dim=-1, descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        probabilities = ordered.masked_fill(beyond, 0.0).gather(-1, index.argsort(-1))
    drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
    return drawn.view(logits.shape[:-1])
