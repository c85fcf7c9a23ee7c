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
    """The sum over all paths through the grid of frames and tokens."""

    @staticmethod
    def forward(ctx: Any, waits: Tensor, emits: Tensor, frames: Tensor, tokens: Tensor, fastemit: float) -> Tensor:
        begins = torch.full_like(waits, -torch.inf, dtype=torch.float64)
        begins[:, 0, 0] = 0.0
        into_frame = F.pad(waits.double()[:, :-1], (0, 0, 1, 0), value=-torch.inf)
        into_token = F.pad(emits.double()[:, :, :-1], (1, 0), value=-torch.inf)
        alpha = _sums(begins, into_frame, into_token)
        rows = torch.arange(len(waits), device=waits.device)
        total = alpha[rows, frames - 1, tokens] + waits.double()[rows, frames - 1, tokens]
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
        backwards = (ends, torch.where(here, waits, -torch.inf), emits)
        beta = _sums(*(grid.flip(1, 2) for grid in backwards)).flip(1, 2)
        after_wait = F.pad(beta[:, 1:], (0, 0, 0, 1), value=-torch.inf)
        after_wait[rows, frames - 1, tokens] = 0.0
        after_emit = F.pad(beta[:, :, 1:], (0, 1), value=-torch.inf)
        reached = alpha - total[:, None, None]
        waited = torch.where(here, torch.exp(reached + waits + after_wait), 0.0)
        emitted = torch.where(here, torch.exp(reached + emits + after_emit), 0.0)
        scale = -grads[0].double()[:, None, None]
        return (scale * waited).to(grads[0]), (scale * (1 + ctx.fastemit) * emitted).to(grads[0]), None, None, None


def _sums(begins: Tensor, into_frame: Tensor, into_token: Tensor) -> Tensor:
    """The sum over all paths to each point of a grid, one diagonal after the other.

    Args:
        begins: (B, T, U + 1) score of beginning at a point.
        into_frame: (B, T, U + 1) score of the step to a point from the frame before; not used in the first frame.
        into_token: (B, T, U + 1) score of the step to a point from the token before; not used for the first token.
    """
    total = begins.clone()
    _, height, width = total.shape
    for diagonal in range(1, height + width - 1):
        u = torch.arange(max(0, diagonal - height + 1), min(width, diagonal + 1), device=total.device)
        t = diagonal - u
        waited = torch.where(t > 0, total[:, (t - 1).clamp(min=0), u] + into_frame[:, t, u], -torch.inf)
        emitted = torch.where(u > 0, total[:, t, (u - 1).clamp(min=0)] + into_token[:, t, u], -torch.inf)
        total[:, t, u] = torch.logaddexp(begins[:, t, u], torch.logaddexp(waited, emitted))
    return total
