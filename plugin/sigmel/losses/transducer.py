"""The transducer's loss, with FastEmit regularisation.

Graves, "Sequence transduction with recurrent neural networks" (2012); Yu et al., "FastEmit: Low-latency streaming ASR
with sequence-level emission regularization" (ICASSP 2021), equation 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sigmel.errors import SigmelError
from sigmel.losses.reduction import reduced


def transducer_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    fastemit: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """The transducer's loss: the negative logarithm of the sum over all alignments.

    Args:
        log_probs: (B, T, U + 1, V) log-probabilities of the joint network.
        targets: (B, U) tokens.
        input_lengths: (B,) frames.
        target_lengths: (B,) tokens.
        blank: the number of the blank.
        fastemit: share by which gradients of tokens, but not of blanks, are increased, so that tokens come earlier.
            The value of the loss does not change.
        reduction: "none", "sum" or "mean".

    Raises:
        SigmelError: the shapes do not fit each other, an utterance has no frame, or the reduction is unknown.
    """
    batch, frames, places, _ = log_probs.shape
    if targets.shape != (batch, places - 1) or input_lengths.shape != (batch,) or target_lengths.shape != (batch,):
        raise SigmelError(
            f"log-probabilities {tuple(log_probs.shape)}, targets {tuple(targets.shape)} and lengths "
            f"{tuple(input_lengths.shape)}, {tuple(target_lengths.shape)} are not (B, T, U + 1, V), (B, U), (B,), (B,)"
        )
    if int(input_lengths.min()) < 1 or int(input_lengths.max()) > frames or int(target_lengths.max()) > places - 1:
        raise SigmelError(f"lengths are not between 1 and {frames} frames, and 0 and {places - 1} tokens")
    waits = log_probs[..., blank]
    index = targets.long()[:, None, :, None].expand(-1, frames, -1, 1)
    emits = log_probs[:, :, :-1].gather(3, index).squeeze(3)
    emits = F.pad(emits, (0, 1), value=-torch.inf)  # nothing follows the last token
    device = log_probs.device
    loss = _Alignments.apply(waits, emits, input_lengths.to(device), target_lengths.to(device), fastemit)
    return reduced(loss, reduction)


class _Alignments(torch.autograd.Function):
    """The sum over all paths through the grid of frames and tokens, one diagonal at a time."""

    @staticmethod
    def forward(ctx: Any, waits: Tensor, emits: Tensor, frames: Tensor, tokens: Tensor, fastemit: float) -> Tensor:
        alpha = _forward(waits.double(), emits.double())
        rows = torch.arange(len(waits), device=waits.device)
        end = alpha[rows, frames - 1, tokens]
        total = end + waits.double()[rows, frames - 1, tokens]
        ctx.save_for_backward(waits, emits, frames, tokens, alpha, total)
        ctx.fastemit = fastemit
        return -total.to(waits.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        waits, emits, frames, tokens, alpha, total = ctx.saved_tensors
        waits, emits = waits.double(), emits.double()
        batch, height, width = waits.shape
        rows = torch.arange(batch, device=waits.device)
        here = torch.arange(height, device=waits.device)[:, None] < frames[:, None, None]
        here = here & (torch.arange(width, device=waits.device) <= tokens[:, None, None])
        ends = torch.full_like(waits, -torch.inf)
        ends[rows, frames - 1, tokens] = waits[rows, frames - 1, tokens]
        beta = _backward(torch.where(here, waits, -torch.inf), emits, ends)
        after_wait = F.pad(beta[:, 1:], (0, 0, 0, 1), value=-torch.inf)
        after_wait[rows, frames - 1, tokens] = 0.0
        after_emit = F.pad(beta[:, :, 1:], (0, 1), value=-torch.inf)
        reached = alpha - total[:, None, None]
        waited = torch.where(here, torch.exp(reached + waits + after_wait), 0.0)
        emitted = torch.where(here, torch.exp(reached + emits + after_emit), 0.0)
        scale = -grads[0].double()[:, None, None]
        return (scale * waited).to(grads[0]), (scale * (1 + ctx.fastemit) * emitted).to(grads[0]), None, None, None


def _forward(waits: Tensor, emits: Tensor) -> Tensor:
    """(B, T, U + 1) the sum over all paths from the start to each point of the grid."""
    _, height, width = waits.shape
    alpha = torch.full_like(waits, -torch.inf)
    alpha[:, 0, 0] = 0.0
    for diagonal in range(1, height + width - 1):
        t, u = _diagonal(diagonal, height, width, waits.device)
        earlier, before = (t - 1).clamp(min=0), (u - 1).clamp(min=0)
        waited = torch.where(t > 0, alpha[:, earlier, u] + waits[:, earlier, u], -torch.inf)
        emitted = torch.where(u > 0, alpha[:, t, before] + emits[:, t, before], -torch.inf)
        alpha[:, t, u] = torch.logaddexp(waited, emitted)
    return alpha


def _backward(waits: Tensor, emits: Tensor, ends: Tensor) -> Tensor:
    """(B, T, U + 1) the sum over all paths from each point of the grid to the end; `ends` has the score of ending."""
    _, height, width = waits.shape
    beta = ends.clone()
    for diagonal in reversed(range(height + width - 1)):
        t, u = _diagonal(diagonal, height, width, waits.device)
        later, after = (t + 1).clamp(max=height - 1), (u + 1).clamp(max=width - 1)
        waited = torch.where(t + 1 < height, waits[:, t, u] + beta[:, later, u], -torch.inf)
        emitted = torch.where(u + 1 < width, emits[:, t, u] + beta[:, t, after], -torch.inf)
        beta[:, t, u] = torch.logaddexp(ends[:, t, u], torch.logaddexp(waited, emitted))
    return beta


def _diagonal(number: int, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The frames and the numbers of tokens, with sum `number`, of the points on a diagonal."""
    u = torch.arange(max(0, number - height + 1), min(width, number + 1), device=device)
    return number - u, u
