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
    """Assignments sorted by expert, so that each expert's frames form one contiguous block of rows.

    Attributes:
        order: (N * K,) assignment (frame * K + choice) of each sorted row; rows of expert -1 come first.
        frame: (N * K,) frame of each sorted row.
        slices: one (expert, rows) pair for each expert that any frame chose.
    """

    def __init__(self, experts: Tensor, num_experts: int):
        flat = experts.flatten()
        self.order = flat.argsort(stable=True)
        self.frame = self.order // experts.shape[1]
        sizes = torch.bincount(flat + 1, minlength=num_experts + 1).tolist()
        self.slices: list[tuple[int, slice]] = []
        start = sizes[0]
        for expert, size in enumerate(sizes[1:]):
            if size:
                self.slices.append((expert, slice(start, start + size)))
            start += size


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
    act = ACTIVATIONS[activation]
    gate = gates.flatten()[groups.order, None].to(x.dtype)  # (N * K, 1)
    out = torch.zeros_like(x)
    hidden = x.new_zeros(len(groups.order), w1.shape[1])
    for e, rows in groups.slices:
        torch.addmm(b1[e], x[groups.frame[rows]], w1[e].T, out=hidden[rows])
        out.index_add_(0, groups.frame[rows], gate[rows] * torch.addmm(b2[e], act(hidden[rows]), w2[e].T))
    return out, hidden


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
    gate = gates.flatten()[groups.order, None].to(x.dtype)
    grad_x, grad_gate = torch.zeros_like(x), x.new_zeros(len(groups.order))
    grad_w1, grad_b1, grad_w2, grad_b2 = map(torch.zeros_like, (w1, b1, w2, b2))
    for e, rows in groups.slices:
        frame = groups.frame[rows]
        value = ACTIVATIONS[activation](hidden[rows])
        grad_out = grad[frame]  # (n, D)
        grad_gate[rows] = (grad_out * torch.addmm(b2[e], value, w2[e].T)).sum(-1)
        grad_out = grad_out * gate[rows]
        torch.mm(grad_out.T, value, out=grad_w2[e])
        torch.sum(grad_out, 0, out=grad_b2[e])
        grad_pre = DERIVATIVES[activation](grad_out @ w2[e], hidden[rows])
        torch.mm(grad_pre.T, x[frame], out=grad_w1[e])
        torch.sum(grad_pre, 0, out=grad_b1[e])
        grad_x.index_add_(0, frame, grad_pre @ w1[e])
    grad_gates = torch.zeros_like(gates).flatten().index_copy_(0, groups.order, grad_gate.to(gates.dtype))
    return grad_x, grad_gates.view_as(gates), grad_w1, grad_b1, grad_w2, grad_b2


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
