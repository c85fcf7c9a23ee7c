"""`torch.ops.sigmel.dmel_encode`, `dmel_encode_spectrum` and `dmel_embed`: schemas, fake kernels, autograd."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from sigmel.ops.dispatch import serving
from sigmel.ops.dmel import cpu, reference


@torch.library.custom_op("sigmel::dmel_encode", mutates_args=())
def _encode(log_mel: Tensor, edges: Tensor) -> Tensor:
    return _implementation(log_mel).encode(log_mel.contiguous(), edges.contiguous())


@_encode.register_fake
def _(log_mel, edges):  # type: ignore[no-untyped-def]
    return log_mel.new_empty(log_mel.shape, dtype=torch.uint8)


@torch.library.custom_op("sigmel::dmel_encode_spectrum", mutates_args=())
def _encode_spectrum(spectrum: Tensor, filters: Tensor, edges: Tensor) -> Tensor:
    return _implementation(filters).encode_spectrum(spectrum.contiguous(), filters.contiguous(), edges.contiguous())


@_encode_spectrum.register_fake
def _(spectrum, filters, edges):  # type: ignore[no-untyped-def]
    return spectrum.new_empty((*spectrum.shape[:-1], len(filters)), dtype=torch.uint8)


@torch.library.custom_op("sigmel::dmel_embed", mutates_args=())
def _embed(ids: Tensor, tables: Tensor) -> Tensor:
    _check_ids(ids, tables.shape[1])
    return _implementation(tables).embed(ids.contiguous(), tables.contiguous())


@_embed.register_fake
def _(ids, tables):  # type: ignore[no-untyped-def]
    return tables.new_empty(ids.shape[0], tables.shape[2])


@torch.library.custom_op("sigmel::dmel_embed_backward", mutates_args=())
def _embed_backward(grad: Tensor, ids: Tensor, entries: int) -> Tensor:
    return _implementation(grad).embed_backward(grad.contiguous(), ids.contiguous(), entries)


@_embed_backward.register_fake
def _(grad, ids, entries):  # type: ignore[no-untyped-def]
    return grad.new_empty(ids.shape[1], entries, grad.shape[1])


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ids, tables = inputs
    ctx.save_for_backward(ids)
    ctx.entries = tables.shape[1]


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    (ids,) = ctx.saved_tensors
    return None, torch.ops.sigmel.dmel_embed_backward(grad, ids, ctx.entries)


_embed.register_autograd(_backward, setup_context=_save)


def _implementation(x: Tensor) -> ModuleType:
    """The module that serves tensors like x: the plain definition where no other can."""
    if x.device.type == "cuda":
        return serving("sigmel.ops.dmel.cuda", "dMel takes a form in torch", x) or reference
    return cpu if cpu.serves(x) else reference


def dmel_encode(log_mel: Tensor, edges: Tensor) -> Tensor:
    """Ids of log-mel values: how many of its channel's edges a value reaches.

    dMel (arXiv 2407.15835, section 2.1). `sigmel.features.dmel.nearest_edges` makes edges of values.

    Args:
        log_mel: (..., C) float; compared in float32. NaN comes out as 0.
        edges: (C, bins - 1) float32, ascending in each channel; at most 255.

    Returns:
        (..., C) uint8 in [0, bins).

    Raises:
        ValueError: shapes or types that do not fit, by name.
    """
    _check_edges(edges, "log_mel", log_mel.shape)
    return torch.ops.sigmel.dmel_encode(log_mel.float(), edges)


def dmel_encode_spectrum(spectrum: Tensor, filters: Tensor, edges: Tensor) -> Tensor:
    """Ids of the log-mel of spectra, which is never there: magnitude, mel filters, log10, edges.

    A power is at least 1e-10, and a mel magnitude, too, as in the authors' package.

    Args:
        spectrum: complex64 (..., bins of the transform).
        filters: float32 (C, bins of the transform), not negative.
        edges: see `dmel_encode`.

    Returns:
        (..., C) uint8.

    Raises:
        ValueError: shapes or types that do not fit, by name.
    """
    if spectrum.dtype != torch.complex64:
        raise ValueError(f"spectrum: {spectrum.dtype}, expected torch.complex64")
    if filters.dtype != torch.float32 or filters.dim() != 2 or filters.shape[1] != spectrum.shape[-1]:
        expected = f"torch.float32 (channels, {spectrum.shape[-1]})"
        raise ValueError(f"filters: {filters.dtype} {tuple(filters.shape)}, expected {expected}")
    _check_edges(edges, "filters", (filters.shape[0],))
    return torch.ops.sigmel.dmel_encode_spectrum(spectrum, filters, edges)


def dmel_embed(ids: Tensor, tables: Tensor) -> Tensor:
    """Embeddings of dMel frames: the sum over channels of each channel's row, without a tensor of all of them.

    A linear layer over the concatenation of per-channel embeddings (arXiv 2407.15835, section 2.2) is such a sum, too,
    with tables that the layer was applied to: see `sigmel.layers.dmel`.

    Args:
        ids: (N, C) uint8 in [0, V). On CUDA, where looking would be waiting, one that is not there adds nothing.
        tables: (C, V, D) float, one table a channel.

    Returns:
        (N, D) in the type of the tables.

    Raises:
        ValueError: shapes or types that do not fit or, on a CPU, ids that are not there; by name.
    """
    if ids.dtype != torch.uint8:
        raise ValueError(f"ids: {ids.dtype}, expected torch.uint8")
    if tables.dim() != 3 or ids.dim() != 2 or ids.shape[1] != tables.shape[0]:
        shapes = f"{tuple(ids.shape)} and {tuple(tables.shape)}"
        raise ValueError(f"ids, tables: {shapes}, expected (N, channels) and (channels, entries, size)")
    return torch.ops.sigmel.dmel_embed(ids, tables)


def _check_edges(edges: Tensor, name: str, shape: tuple[int, ...]) -> None:
    channels = shape[-1] if shape else 0
    if edges.dtype != torch.float32:
        raise ValueError(f"edges: {edges.dtype}, expected torch.float32: others would move values to another bin")
    if edges.dim() != 2 or edges.shape[0] != channels or edges.shape[1] > 255:
        raise ValueError(
            f"edges: {tuple(edges.shape)}, expected ({channels}, at most 255), as {name} is {tuple(shape)}"
        )


def _check_ids(ids: Tensor, entries: int) -> None:
    """On a CPU the values are known, in a compiled graph too."""
    if ids.device.type == "cpu" and ids.numel() and (highest := int(ids.max())) >= entries:
        raise ValueError(f"ids: up to {highest}, but the tables have {entries} entries")
