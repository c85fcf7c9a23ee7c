"""Plain definitions of the routed feed-forward, and of its derivative.

A frame `n` that chose expert `e` with gate `g` gets `g * (W2[e] act(W1[e] x[n] + b1[e]) + b2[e])`; a frame that chose
several experts gets the sum. Expert -1 is no expert: a padded frame costs nothing and comes out as zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

STRIP = 48  # frames of an expert that a kernel on a CPU computes at once, at most

Activation = Callable[[Tensor], Tensor]
Derivative = Callable[[Tensor, Tensor], Tensor]  # (gradient of the output, input) -> gradient of the input
ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
DERIVATIVES: dict[str, Derivative] = {  # autograd does not reach into a custom op
    "relu": lambda grad, x: torch.ops.aten.threshold_backward(grad, x, 0),
    "gelu": torch.ops.aten.gelu_backward,
    "silu": torch.ops.aten.silu_backward,
}
# Gated linear units (arXiv 2002.05202): the activation of the first half of the input, times the second half.
GATED = {"reglu": "relu", "geglu": "gelu", "swiglu": "silu"}


def _gated(activation: Activation, derivative: Derivative) -> tuple[Activation, Derivative]:
    def value(x: Tensor) -> Tensor:
        gate, linear = x.chunk(2, dim=-1)
        return activation(gate) * linear

    def gradient(grad: Tensor, x: Tensor) -> Tensor:
        gate, linear = x.chunk(2, dim=-1)
        return torch.cat([derivative(grad * linear, gate), grad * activation(gate)], dim=-1)

    return value, gradient


for _name, _plain in GATED.items():
    ACTIVATIONS[_name], DERIVATIVES[_name] = _gated(ACTIVATIONS[_plain], DERIVATIVES[_plain])


def inner_size(ff_size: int, activation: str) -> int:
    """How many features go into an activation that gives `ff_size`."""
    return 2 * ff_size if activation in GATED else ff_size


class Groups:
    """Choices sorted by expert, so that each expert's frames form one contiguous block of rows.

    Attributes:
        order: (N * K,) choice (frame * K + k) of each sorted row; rows of expert -1 come first.
        frame: (N * K,) frame of each sorted row.
        idle: how many rows are of expert -1.
        blocks: one (expert, rows) pair for each expert that any frame chose.
    """

    def __init__(self, experts: Tensor, num_experts: int):
        self.shape = experts.shape
        flat = experts.flatten()
        self.order = flat.argsort(stable=True)
        self.frame = self.order // self.shape[1]
        self.idle, *sizes = torch.bincount(flat + 1, minlength=num_experts + 1).tolist()
        self.blocks: list[tuple[int, slice]] = []
        start = self.idle
        for expert, size in enumerate(sizes):
            if size:
                self.blocks.append((expert, slice(start, start + size)))
            start += size

    def allocate(self, like: Tensor, *columns: int) -> Tensor:
        """(N * K, *columns) sorted rows for the blocks to be written to; those of expert -1 are zero."""
        rows = like.new_empty(len(self.order), *columns)
        rows[: self.idle] = 0
        return rows

    def gate(self, gates: Tensor, like: Tensor) -> Tensor:
        """(N * K, 1) gates (N, K) of the sorted rows."""
        return gates.flatten()[self.order, None].to(like.dtype)

    def restore(self, rows: Tensor) -> Tensor:
        """(N, K, ...) from sorted rows (N * K, ...)."""
        return torch.empty_like(rows).index_copy_(0, self.order, rows).unflatten(0, self.shape)

    def combine(self, rows: Tensor) -> Tensor:
        """(N, ...) from sorted rows (N * K, ...): the sum over the K choices of a frame."""
        rows = self.restore(rows)
        return rows.squeeze(1) if rows.shape[1] == 1 else rows.sum(1)


class Inputs(NamedTuple):
    """What every form of the op is given; the arguments of `torch.ops.sigmel.expert_mlp`.

    Attributes:
        x: (N, D) frames.
        experts: (N, K) int64 chosen experts, -1 for no expert.
        gates: (N, K) weight of each choice.
        w1, b1, w2, b2: (E, F, D), (E, F), (E, D, F), (E, D) parameters; of the first two, 2 F for a gated activation.
        activation: a key of `ACTIVATIONS`.
    """

    x: Tensor
    experts: Tensor
    gates: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    activation: str


def kept(inputs: Inputs) -> Tensor:
    """Room for the pre-activations, which the backward pass needs: (N * K, F or 2 F), on a CPU with more rows.

    There the kernel fills up the frames of an expert with less than `STRIP` more. The shape follows from the inputs
    alone: a graph that was traced with one form of the op runs with another.
    """
    choices = inputs.experts.shape[0] * inputs.experts.shape[1]
    padding = STRIP * min(choices, inputs.w1.shape[0]) if inputs.x.device.type == "cpu" else 0
    return inputs.x.new_empty(choices + padding, inputs.w1.shape[1])


def forward(inputs: Inputs, keep: bool) -> tuple[Tensor, Tensor]:
    """Run each expert once, over the block of frames that chose it.

    Returns:
        (N, D) outputs and, to `keep` for a backward pass, the `kept` pre-activations, of which the first N * K rows
        are those of the choices in sorted order; an empty tensor if nothing is kept.
    """
    x, experts, gates, w1, b1, w2, b2, activation = inputs
    groups = Groups(experts, w1.shape[0])
    rows = x[groups.frame]
    before, out = kept(inputs), groups.allocate(x, x.shape[1])
    hidden = before[: len(rows)]
    hidden[: groups.idle] = 0
    for e, block in groups.blocks:
        torch.addmm(b1[e], rows[block], w1[e].T, out=hidden[block])
    value = ACTIVATIONS[activation](hidden)
    for e, block in groups.blocks:
        torch.addmm(b2[e], value[block], w2[e].T, out=out[block])
    return groups.combine(out.mul_(groups.gate(gates, x))), before if keep else x.new_empty(0)


def backward(grad: Tensor, before: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Derivative of `forward`: gradients of x, gates, w1, b1, w2, b2 for the (N, D) gradient `grad`."""
    x, experts, gates, w1, b1, w2, b2, activation = inputs
    groups = Groups(experts, w1.shape[0])
    before = before[: len(groups.order)]
    rows, grad_rows, gate = x[groups.frame], grad[groups.frame], groups.gate(gates, x)
    grad_out, value = grad_rows * gate, ACTIVATIONS[activation](before)
    grad_value, grad_gate = groups.allocate(before, w2.shape[2]), groups.allocate(before)
    grad_w1, grad_b1, grad_w2, grad_b2 = (t.new_zeros(t.shape) for t in (w1, b1, w2, b2))
    for e, block in groups.blocks:
        torch.mm(grad_rows[block], w2[e], out=grad_value[block])  # of the ungated output: the gate's gradient needs it
        torch.mv(grad_rows[block], b2[e], out=grad_gate[block])
        torch.mm(grad_out[block].T, value[block], out=grad_w2[e])
        torch.sum(grad_out[block], 0, out=grad_b2[e])
    grad_gate += (grad_value * value).sum(-1)
    grad_hidden = DERIVATIVES[activation](grad_value * gate, before)
    grad_x = groups.allocate(x, x.shape[1])
    for e, block in groups.blocks:
        torch.mm(grad_hidden[block].T, rows[block], out=grad_w1[e])
        torch.sum(grad_hidden[block], 0, out=grad_b1[e])
        torch.mm(grad_hidden[block], w1[e], out=grad_x[block])
    return (
        groups.combine(grad_x),
        groups.restore(grad_gate).to(gates.dtype),
        grad_w1,
        grad_b1,
        grad_w2,
        grad_b2,
    )


def every_expert(inputs: Inputs, keep: bool) -> tuple[Tensor, Tensor]:
    """The result of `forward` by every expert over every frame: E / K times the work, in shapes known beforehand.

    For exported graphs (ONNX), and a second oracle. The room to `keep` the pre-activations stays empty.
    """
    x, experts, gates, w1, b1, w2, b2, activation = inputs
    hidden = ACTIVATIONS[activation](torch.einsum("nd,efd->nef", x, w1) + b1)
    value = torch.einsum("nef,edf->ned", hidden, w2) + b2  # (N, E, D)
    chosen = experts[..., None] == torch.arange(w1.shape[0], device=x.device)  # (N, K, E)
    weight = (gates[..., None].to(x.dtype) * chosen.to(x.dtype)).sum(1)  # (N, E)
    return torch.einsum("ne,ned->nd", weight, value), kept(inputs) if keep else x.new_empty(0)
