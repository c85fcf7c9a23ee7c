"""The feed-forward of routed experts on a CPU, in float32: hands tensors to cpu.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sigmel.ops.experts import reference
from sigmel.ops.experts.reference import GATED, Inputs
from sigmel.ops.native import call, native

SOURCE = Path(__file__).with_name("cpu.cpp")
MULTIPLE = 16  # of features that cpu.cpp takes
ACTIVATIONS = ("relu", "gelu", "silu")


class Problem(ctypes.Structure):
    """The structure of this name in cpu.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("frames", "choices", "size", "hidden")),
        *((name, ctypes.c_int64) for name in ("experts", "activation", "gated", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "chosen", "gates", "w1", "b1", "w2", "b2", "output", "before")),
        *((name, ctypes.c_void_p) for name in ("grad", "grad_x", "grad_gates")),
        *((name, ctypes.c_void_p) for name in ("grad_w1", "grad_b1", "grad_w2", "grad_b2")),
    )


def unsupported(inputs: Inputs) -> str:
    """Why this kernel cannot serve such inputs; "" where it can."""
    if inputs.x.dtype != torch.float32:
        return f"{inputs.x.dtype} has no kernel"
    if any(size % MULTIPLE for size in inputs.w2.shape[1:]):
        return f"the sizes of the experts' layers are not multiples of {MULTIPLE}"
    return native(SOURCE).problem


def forward(inputs: Inputs, keep: bool) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    output = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    before = reference.kept(inputs) if keep else inputs.x.new_empty(0)
    prepared = _prepared(inputs)
    problem = _problem(prepared)
    problem.output, problem.before = output.data_ptr(), before.data_ptr() if keep else None
    call(SOURCE, "forward", problem)
    return output, before


def backward(grad: Tensor, before: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    prepared, grad = _prepared(inputs), grad.contiguous()
    problem = _problem(prepared)
    problem.grad, problem.before = grad.data_ptr(), before.data_ptr()
    x, _, gates, *parameters = prepared[:7]
    grad_x, grad_gates = torch.empty_like(x), torch.empty_like(gates)
    grad_w1, grad_b1, grad_w2, grad_b2 = map(torch.empty_like, parameters)
    problem.grad_x, problem.grad_gates = grad_x.data_ptr(), grad_gates.data_ptr()
    problem.grad_w1, problem.grad_b1 = grad_w1.data_ptr(), grad_b1.data_ptr()
    problem.grad_w2, problem.grad_b2 = grad_w2.data_ptr(), grad_b2.data_ptr()
    call(SOURCE, "backward", problem)
    return grad_x, grad_gates.to(inputs.gates.dtype), grad_w1, grad_b1, grad_w2, grad_b2


def _prepared(inputs: Inputs) -> Inputs:
    """The inputs as cpu.cpp takes them: contiguous, the gates in float32; what is so already is not copied."""
    tensors = (tensor.contiguous() for tensor in inputs._replace(gates=inputs.gates.float())[:7])
    return Inputs._make((*tensors, inputs.activation))


def _problem(inputs: Inputs) -> Problem:
    """The structure of prepared inputs, which it points into."""
    *tensors, activation = inputs
    kind = ACTIVATIONS.index(GATED.get(activation, activation)), activation in GATED
    sizes = *inputs.experts.shape, *inputs.w2.shape[1:], len(inputs.w2)
    return Problem(*sizes, *kind, torch.get_num_threads(), *(tensor.data_ptr() for tensor in tensors))
