"""dMel on a CPU, in float32: hands tensors to cpu.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sigmel.ops.dispatch import deciding
from sigmel.ops.native import call, native

SOURCE = Path(__file__).with_name("cpu.cpp")


def unsupported(inputs: Sequence[Tensor | int]) -> str:
    """Why this kernel cannot serve the arguments of one of the functions below; "" where it can."""
    dtype = deciding(inputs).dtype
    return native(SOURCE).problem if dtype == torch.float32 else f"{dtype} has no kernel"


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
    # No logarithm is taken, as it keeps the order: an edge is reached from where the logarithm rounds to the edge.
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


def _call(function: str, *arguments: Tensor | int) -> None:
    contiguous = [x if isinstance(x, int) else x.contiguous() for x in arguments]  # outputs are so already
    call(SOURCE, function, *contiguous, torch.get_num_threads())
