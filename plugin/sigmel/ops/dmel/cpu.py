"""dMel on a CPU: hands tensors to cpu.cpp."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sigmel.ops.native import native, warn_once

SOURCE = Path(__file__).with_name("cpu.cpp")


def serves(x: Tensor) -> bool:
    """Whether it computes in the type and on the device of x: float32 on a CPU.

    Where cpu.cpp cannot be compiled, it serves nothing, after one warning.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    problem = native(SOURCE).problem
    if problem:
        warn_once(f"dMel takes a form in torch: {problem}")
    return not problem


def encode(log_mel: Tensor, edges: Tensor) -> Tensor:
    """See `reference.encode`."""
    ids = torch.empty(log_mel.shape, dtype=torch.uint8)
    frames = log_mel.numel() // max(1, log_mel.shape[-1])
    _call("encode", log_mel, edges, ids, frames, *edges.shape)
    return ids


def encode_spectrum(spectrum: Tensor, filters: Tensor, edges: Tensor) -> Tensor:
    """See `reference.encode_spectrum`."""
    channels, bins = filters.shape
    ids = torch.empty((*spectrum.shape[:-1], channels), dtype=torch.uint8)
    frames = spectrum.numel() // max(1, bins)
    # A logarithm keeps the order, so that none is taken: an edge is reached from where its logarithm rounds to it.
    rounded = (edges.double() + edges.nextafter(edges.new_tensor(-torch.inf)).double()) / 2
    reached = torch.pow(10.0, rounded).float()
    _call("encode_spectrum", torch.view_as_real(spectrum), filters, reached, ids, frames, bins, *edges.shape)
    return ids


def embed(ids: Tensor, tables: Tensor) -> Tensor:
    """See `reference.embed`."""
    output = tables.new_empty(len(ids), tables.shape[2])
    _call("embed", ids, tables, output, len(ids), *tables.shape)
    return output


def embed_backward(grad: Tensor, ids: Tensor, entries: int) -> Tensor:
    """See `reference.embed_backward`."""
    tables = grad.new_empty(ids.shape[1], entries, grad.shape[1])
    _call("embed_backward", grad, ids, tables, len(ids), *tables.shape)
    return tables


def _call(name: str, *arguments: Tensor | int) -> None:
    code = native(SOURCE).code
    assert code is not None  # else `serves` said so
    as_c = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int64(a)
        for a in (*arguments, torch.get_num_threads())
    ]
    getattr(code, name)(*as_c)
