"""Sigmoid attention on a CPU, computed in float32: hands tensors to cpu.cpp."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sigmel.ops.native import call, native
from sigmel.ops.sigmoid_attention.reference import Inputs, Layout

SOURCE = Path(__file__).with_name("cpu.cpp")
MULTIPLE = 16  # of a head's features; others are filled up with zeros


class Strides(ctypes.Structure):
    """The structure of this name in cpu.cpp."""

    _fields_ = (("row", ctypes.c_int64), ("head", ctypes.c_int64), ("time", ctypes.c_int64))

    @classmethod
    def of(cls, x: Tensor) -> Strides:
        """The strides of a tensor (B, H, T, D)."""
        return cls(*x.stride()[:3])


class Problem(ctypes.Structure):
    """The structure of this name in cpu.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("sequences", "heads", "key_heads", "size")),
        *((name, ctypes.c_int64) for name in ("chunk", "left", "right", "threads")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("sequence", "bias", "slopes", "q", "k", "v")),
        *((name, Strides) for name in ("q_strides", "k_strides", "v_strides")),
        ("page_table", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("pages", "page_size")),
        ("output", ctypes.c_void_p),
        ("output_strides", Strides),
        ("grad", ctypes.c_void_p),
        ("grad_strides", Strides),
        *((name, ctypes.c_void_p) for name in ("grad_q", "grad_k", "grad_v")),
        *((name, Strides) for name in ("grad_q_strides", "grad_k_strides", "grad_v_strides")),
        ("grad_bias", ctypes.c_void_p),
    )


def unsupported(inputs: Inputs) -> str:
    """Why this kernel cannot serve such inputs; "" where it can."""
    if inputs.q.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{inputs.q.dtype} has no kernel"
    return native(SOURCE).problem


def forward(inputs: Inputs) -> Tensor:
    """See `reference.forward`."""
    prepared = _prepared(inputs)
    q, layout = prepared.q, prepared.layout
    everything = layout.query_lengths is None and layout.cu_queries is None
    output = torch.empty_like(q) if everything else torch.zeros_like(q)
    problem = _problem(prepared)
    problem.output, problem.output_strides = output.data_ptr(), Strides.of(output)
    call(SOURCE, "forward", problem)
    return _like(inputs.q, output)


def backward(grad: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    prepared, grad = _prepared(inputs), _wide(grad)
    gradients = [torch.zeros_like(x) for x in prepared[:3]]
    grad_bias = torch.zeros(inputs.bias.shape)
    problem = _problem(prepared)
    problem.grad, problem.grad_strides = grad.data_ptr(), Strides.of(grad)
    problem.grad_q, problem.grad_k, problem.grad_v = (x.data_ptr() for x in gradients)
    problem.grad_q_strides, problem.grad_k_strides, problem.grad_v_strides = map(Strides.of, gradients)
    problem.grad_bias = grad_bias.data_ptr()
    call(SOURCE, "backward", problem)
    grad_q, grad_k, grad_v = (_like(x, gradient) for x, gradient in zip(inputs[:3], gradients, strict=True))
    return grad_q, grad_k, grad_v, grad_bias


def _prepared(inputs: Inputs) -> Inputs:
    """The inputs in the types and layouts that cpu.cpp takes; what has them already is not copied."""
    q, k, v, bias, slopes, layout = inputs[:6]
    if layout.page_table is not None:
        table = layout.page_table.to(torch.int64).contiguous()
        if not (_usable(k) and _usable(v)):
            # Only the pages in the table have to be copied, of a cache that may hold many others.
            pages = table.flatten().clamp(0, len(k) - 1)  # an entry beyond a length may be anything
            k, v = k[pages], v[pages]
            table = torch.arange(table.numel()).view_as(table)
        layout = layout._replace(page_table=table)
    return inputs._replace(
        q=_wide(q),
        k=_wide(k),
        v=_wide(v),
        bias=bias.float().contiguous(),
        slopes=None if slopes is None else slopes.float().contiguous(),
        layout=layout,
    )


def _usable(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.stride(-1) == 1 and x.shape[-1] % MULTIPLE == 0


def _wide(x: Tensor) -> Tensor:
    """x in float32, features side by side and a multiple of `MULTIPLE`; where x has that already, the same memory."""
    if _usable(x):
        return x
    x = x.float()
    if missing := -x.shape[-1] % MULTIPLE:
        return F.pad(x, (0, missing))
    return x if x.stride(-1) == 1 else x.contiguous()


def _like(given: Tensor, x: Tensor) -> Tensor:
    """x as the fake kernels promise: in the type and layout of the given tensor."""
    result = torch.empty_like(given)
    if x.dtype == result.dtype and x.shape == result.shape and x.stride() == result.stride():
        return x
    return result.copy_(x[..., : given.shape[-1]])


def _problem(inputs: Inputs) -> Problem:
    """The structure of prepared inputs, which it points into."""
    q, k, v, bias, slopes, layout, scale, context = inputs
    sequence = _sequences(q, k, layout)
    problem = Problem(len(sequence), q.shape[1], k.shape[1], q.shape[3], *context, torch.get_num_threads(), scale)
    problem.kept = sequence
    problem.sequence, problem.bias = sequence.data_ptr(), bias.data_ptr()
    problem.slopes = None if slopes is None else slopes.data_ptr()
    problem.q, problem.k, problem.v = q.data_ptr(), k.data_ptr(), v.data_ptr()
    problem.q_strides, problem.k_strides, problem.v_strides = Strides.of(q), Strides.of(k), Strides.of(v)
    if layout.page_table is not None:
        problem.page_table = layout.page_table.data_ptr()
        problem.pages, problem.page_size = layout.page_table.shape[1], k.shape[2]
    return problem


def _sequences(q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    """(N, 6) int64: row, first query, queries, first key, keys, position of the first query."""
    if layout.cu_queries is not None and layout.cu_keys is not None:
        count = len(layout.cu_queries) - 1
        table = torch.zeros(count, 6, dtype=torch.int64)
        for column, cumulative in ((1, layout.cu_queries), (3, layout.cu_keys)):
            table[:, column], table[:, column + 1] = cumulative[:-1], cumulative.diff()
    else:
        table = _whole(len(q), q.shape[2], k.shape[2])
        if all(x is None for x in layout[2:5]):
            return table
        table = table.clone()
        if layout.query_lengths is not None:
            table[:, 2] = layout.query_lengths
        if layout.key_lengths is not None:
            table[:, 4] = layout.key_lengths
    if layout.query_start is not None:
        table[:, 5] = layout.query_start
    return table


@functools.lru_cache(maxsize=64)
def _whole(batch: int, queries: int, keys: int) -> Tensor:
    """The table of a batch without padding, kept: to make a table would be a noticeable part of a small call."""
    table = torch.zeros(batch, 6, dtype=torch.int64)
    table[:, 0], table[:, 2], table[:, 4] = torch.arange(batch), queries, keys
    return table
