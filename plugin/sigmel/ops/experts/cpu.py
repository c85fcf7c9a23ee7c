"""The feed-forward of routed experts on a CPU: hands tensors to cpu.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sigmel.ops.experts.reference import GATED
from sigmel.ops.native import native, warn_once

SOURCE = Path(__file__).with_name("cpu.cpp")
MULTIPLE = 16  # of the features that it takes
STRIP = 48  # frames, at most, that an expert's are filled up by
ACTIVATIONS = ("relu", "gelu", "silu")


class Problem(ctypes.Structure):
    """As in cpu.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("frames", "choices", "size", "hidden")),
        *((name, ctypes.c_int64) for name in ("experts", "activation", "gated", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "chosen", "gates", "w1", "b1", "w2", "b2", "output", "before")),
        *((name, ctypes.c_void_p) for name in ("grad", "grad_x", "grad_gates")),
        *((name, ctypes.c_void_p) for name in ("grad_w1", "grad_b1", "grad_w2", "grad_b2")),
    ]


def serves(x: Tensor, w2: Tensor) -> bool:
    """Whether it computes this: float32 on a CPU, with sizes that are multiples of 16.

    Where that cannot be compiled, it serves nothing, after one warning.
    """
    sizes = w2.shape[1] % MULTIPLE == 0 and w2.shape[2] % MULTIPLE == 0
    if x.device.type != "cpu" or x.dtype != torch.float32 or not sizes:
        return False
    problem = native(SOURCE).problem
    if problem:
        warn_once(f"experts take a form with a product each: {problem}")
    return not problem


def kept(x: Tensor, experts: Tensor, w1: Tensor) -> Tensor:
    """Room for what the backward pass needs, whichever experts were chosen."""
    choices = experts.shape[0] * experts.shape[1]
    return x.new_empty(choices + STRIP * min(choices, w1.shape[0]), w1.shape[1])


def forward(
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    before = kept(x, experts, w1) if keep else x.new_empty(0)
    inputs, problem = _problem(x, experts, gates, w1, b1, w2, b2, activation)
    problem.output, problem.before = output.data_ptr(), before.data_ptr() if keep else None
    _call("forward", problem, inputs)
    return output, before


def backward(
    grad: Tensor,
    before: Tensor,
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    inputs, problem = _problem(x, experts, gates, w1, b1, w2, b2, activation)
    grad = grad.contiguous()
    problem.grad, problem.before = grad.data_ptr(), before.data_ptr()
    x, _, gates_wide, *parameters = inputs
    grad_x, grad_gates = torch.empty_like(x), torch.empty_like(gates_wide)
    grad_w1, grad_b1, grad_w2, grad_b2 = map(torch.empty_like, parameters)
    problem.grad_x, problem.grad_gates = grad_x.data_ptr(), grad_gates.data_ptr()
    problem.grad_w1, problem.grad_b1 = grad_w1.data_ptr(), grad_b1.data_ptr()
    problem.grad_w2, problem.grad_b2 = grad_w2.data_ptr(), grad_b2.data_ptr()
    _call("backward", problem, [*inputs, grad])
    return grad_x, grad_gates.to(gates.dtype), grad_w1, grad_b1, grad_w2, grad_b2


def _problem(
    x: Tensor,
    experts: Tensor,
    gates: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    activation: str,
) -> tuple[list[Tensor], Problem]:
    """The tensors as cpu.cpp takes them, and the structure that points into them."""
    inputs = [x, experts, gates.float(), w1, b1, w2, b2]
    inputs = [tensor.contiguous() for tensor in inputs]
    kind = ACTIVATIONS.index(GATED.get(activation, activation)), activation in GATED
    pointers = [tensor.data_ptr() for tensor in inputs]
    return inputs, Problem(*experts.shape, *w2.shape[1:], len(w2), *kind, torch.get_num_threads(), *pointers)


def _call(function: str, problem: Problem, inputs: list[Tensor]) -> None:
    getattr(native(SOURCE).code, function)(ctypes.byref(problem))
    del inputs  # they lived until here
