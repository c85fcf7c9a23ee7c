"""The feed-forward of routed experts on a CPU: hands tensors to cpu.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sigmel.ops.experts.reference import GATED, Inputs
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


def serves(inputs: Inputs) -> bool:
    """Whether it computes this: float32 on a CPU, with sizes that are multiples of 16.

    Where that cannot be compiled, it serves nothing, after one warning.
    """
    x, sizes = inputs.x, inputs.w2.shape[1:]
    if x.device.type != "cpu" or x.dtype != torch.float32 or sizes[0] % MULTIPLE or sizes[1] % MULTIPLE:
        return False
    problem = native(SOURCE).problem
    if problem:
        warn_once(f"experts take a form with a product each: {problem}")
    return not problem


def kept(inputs: Inputs) -> Tensor:
    """Room for what the backward pass needs, whichever experts were chosen."""
    choices = inputs.experts.shape[0] * inputs.experts.shape[1]
    return inputs.x.new_empty(choices + STRIP * min(choices, inputs.w1.shape[0]), inputs.w1.shape[1])


def forward(inputs: Inputs, keep: bool) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    output = torch.empty_like(inputs.x, memory_format=torch.contiguous_format)
    before = kept(inputs) if keep else inputs.x.new_empty(0)
    prepared = _prepared(inputs)
    problem = _problem(prepared)
    problem.output, problem.before = output.data_ptr(), before.data_ptr() if keep else None
    _code().forward(ctypes.byref(problem))
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
    _code().backward(ctypes.byref(problem))
    return grad_x, grad_gates.to(inputs.gates.dtype), grad_w1, grad_b1, grad_w2, grad_b2


def _code() -> ctypes.CDLL:
    code = native(SOURCE).code
    assert code is not None  # else `serves` said so
    return code


def _prepared(inputs: Inputs) -> Inputs:
    """As cpu.cpp takes them; what is so already is not copied.

    Raises:
        ValueError: an expert that is not there. Here the values are known, in a compiled graph too.
    """
    experts, count = inputs.experts, len(inputs.w1)
    low, high = map(int, experts.aminmax()) if experts.numel() else (-1, -1)
    if low < -1 or high >= count:
        raise ValueError(f"experts: from {low} to {high}, expected -1, which is none, to {count - 1}")
    tensors = (tensor.contiguous() for tensor in inputs._replace(gates=inputs.gates.float())[:7])
    return Inputs._make((*tensors, inputs.activation))


def _problem(inputs: Inputs) -> Problem:
    """The structure. It points into the tensors of prepared inputs."""
    *tensors, activation = inputs
    kind = ACTIVATIONS.index(GATED.get(activation, activation)), activation in GATED
    sizes = *inputs.experts.shape, *inputs.w2.shape[1:], len(inputs.w2)
    return Problem(*sizes, *kind, torch.get_num_threads(), *(tensor.data_ptr() for tensor in tensors))
