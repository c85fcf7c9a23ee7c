"""Plain definitions of the routed feed-forward, and of its derivative.

A frame `n` that chose expert `e` with gate `g` gets `g * (W2[e] act(W1[e] x[n] + b1[e]) + b2[e])`; one that chose
several experts gets the sum. Expert -1 means "none": a padded frame costs nothing and comes out as zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
# (gradient of the output, input) -> gradient of the input. Autograd does not reach into a custom op.
DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    "gelu": torch.ops.aten.gelu_backward,
    "silu": torch.ops.aten.silu_backward,
}


class Groups:
    """Choices sorted by expert, so that each expert's frames form one contiguous block of rows.

    Attributes:
        order: (N * K,) choice (frame * K + k) of each sorted row; rows of expert -1 come first.
        frame: (N * K,) frame of each sorted row.
        blocks: one (expert, rows) pair for each expert that any frame chose.
    """

    def __init__(self, experts: Tensor, num_experts: int):
        self.shape = experts.shape
        flat = experts.flatten()
        self.order = flat.argsort(stable=True)
        self.frame = self.order // self.shape[1]
        sizes = torch.bincount(flat + 1, minlength=num_experts + 1).tolist()
        self.blocks: list[tuple[int, slice]] = []
        start = sizes[0]
        for expert, size in enumerate(sizes[1:]):
            if size:
                self.blocks.append((expert, slice(start, start + size)))
            start += size

    def restore(self, rows: Tensor) -> Tensor:
        """(N, K, ...) from sorted rows (N * K, ...)."""
        return torch.empty_like(rows).index_copy_(0, self.order, rows).unflatten(0, self.shape)


def sorted_experts(
    x: Tensor, experts: Tensor, gates: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """Run each expert once, over the block of frames that chose it.

    Args:
        x: (N, D) frames.
        experts: (N, K) int64 chosen experts, -1 for none.
        gates: (N, K) weight of each choice.
        w1, b1, w2, b2: (E, F, D), (E, F), (E, D, F), (E, D) parameters.
        activation: a key of `ACTIVATIONS`.

    Returns:
        (N, D) outputs, and the (N * K, F) pre-activations in sorted order, which the derivative needs.
    """
    groups = Groups(experts, w1.shape[0])
    rows = x[groups.frame]
    hidden = x.new_zeros(len(rows), w1.shape[1])
    out = torch.zeros_like(rows)
    for e, block in groups.blocks:
        torch.addmm(b1[e], rows[block], w1[e].T, out=hidden[block])
        torch.addmm(b2[e], ACTIVATIONS[activation](hidden[block]), w2[e].T, out=out[block])
    return (groups.restore(out) * gates[..., None].to(x.dtype)).sum(1), hidden


def sorted_experts_backward(
    grad: Tensor,
    hidden: Tensor,
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Derivative of `sorted_experts`: gradients of x, gates, w1, b1, w2, b2 for the (N, D) gradient `grad`."""
    groups = Groups(experts, w1.shape[0])
    gate = gates.flatten()[groups.order, None].to(x.dtype)  # (N * K, 1)
    rows, grad_rows = x[groups.frame], grad[groups.frame]  # (N * K, D)
    grad_x, grad_gate = torch.zeros_like(rows), x.new_zeros(len(rows))
    grad_w1, grad_b1, grad_w2, grad_b2 = map(torch.zeros_like, (w1, b1, w2, b2))
    for e, block in groups.blocks:
        value = ACTIVATIONS[activation](hidden[block])
        grad_value = grad_rows[block] @ w2[e]  # of the ungated output; it yields the gate's gradient too
        grad_gate[block] = (grad_value * value).sum(-1) + grad_rows[block] @ b2[e]
        grad_out = grad_rows[block] * gate[block]
        torch.mm(grad_out.T, value, out=grad_w2[e])
        torch.sum(grad_out, 0, out=grad_b2[e])
        grad_hidden = DERIVATIVES[activation](grad_value * gate[block], hidden[block])
        torch.mm(grad_hidden.T, rows[block], out=grad_w1[e])
        torch.sum(grad_hidden, 0, out=grad_b1[e])
        torch.mm(grad_hidden, w1[e], out=grad_x[block])
    return (
        groups.restore(grad_x).sum(1),
        groups.restore(grad_gate).to(gates.dtype),
        grad_w1,
        grad_b1,
        grad_w2,
        grad_b2,
    )


def every_expert(
    x: Tensor, experts: Tensor, gates: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: str
) -> tuple[Tensor, Tensor]:
    """The same result from every expert over every frame: E / K times the work, but shapes that depend on no data.

    It is what an exported graph (ONNX) uses, and a second oracle. The pre-activations are not kept.
    """
    hidden = ACTIVATIONS[activation](torch.einsum("nd,efd->nef", x, w1) + b1)
    value = torch.einsum("nef,edf->ned", hidden, w2) + b2  # (N, E, D)
    chosen = experts[..., None] == torch.arange(w1.shape[0], device=x.device)  # (N, K, E)
    weight = (gates[..., None].to(x.dtype) * chosen.to(x.dtype)).sum(1)  # (N, E)
    return torch.einsum("ne,ned->nd", weight, value), x.new_zeros(x.shape[0] * experts.shape[1], w1.shape[1])
