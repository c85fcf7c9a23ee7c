"""`torch.ops.sigmel.dmel_encode`, `dmel_encode_spectrum` and `dmel_embed`, and the functions that people call."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmel.ops.dispatch import operator
from sigmel.ops.dmel import reference


def _check_ids(ids: Tensor, tables: Tensor) -> None:
    """On a CPU only: to look at values on a device is to wait for the device."""
    entries = tables.shape[1]
    if ids.device.type == "cpu" and ids.numel() and (highest := int(ids.max())) >= entries:
        raise ValueError(f"ids: up to {highest}, but the tables have {entries} entries")


operator(
    "dmel_encode",
    reference.encode,
    fake=lambda log_mel, edges: log_mel.new_empty(log_mel.shape, dtype=torch.uint8),
)
operator(
    "dmel_encode_spectrum",
    reference.encode_spectrum,
    fake=lambda spectrum, filters, edges: spectrum.new_empty((*spectrum.shape[:-1], len(filters)), dtype=torch.uint8),
)
_embed = operator(
    "dmel_embed",
    reference.embed,
    fake=lambda ids, tables: tables.new_empty(ids.shape[0], tables.shape[2]),
    check=_check_ids,
)
operator(
    "dmel_embed_backward",
    reference.embed_backward,
    fake=lambda grad, ids, entries: grad.new_empty(ids.shape[1], entries, grad.shape[1]),
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ids, tables = inputs
    ctx.save_for_backward(ids)
    ctx.entries = tables.shape[1]


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    (ids,) = ctx.saved_tensors
    return None, torch.ops.sigmel.dmel_embed_backward(grad, ids, ctx.entries)


_embed.register_autograd(_backward, setup_context=_save)


def dmel_encode(log_mel: Tensor, edges: Tensor) -> Tensor:
    """Ids of log-mel values: how many edges of its channel a value reaches.

    dMel (arXiv 2407.15835, section 2.1). `sigmel.features.dmel_tokenizer.nearest_edges` makes edges of values.

    Args:
        log_mel: (..., C) float; compared in float32. NaN comes out as 0.
        edges: (C, bins - 1) float32, ascending in each channel; at most 255.

    Returns:
        (..., C) uint8 in [0, bins).

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
    """
    _check_edges(edges, "log_mel", log_mel.shape)
    return torch.ops.sigmel.dmel_encode(log_mel.float(), edges)


def dmel_encode_spectrum(spectrum: Tensor, filters: Tensor, edges: Tensor) -> Tensor:
    """Ids of the log-mel of spectra, without a tensor of the log-mel: magnitude, mel filters, log10, edges.

    Powers and mel magnitudes are at least 1e-10, as in the authors' package.

    Args:
        spectrum: complex64 (..., bins of the transform).
        filters: float32 (C, bins of the transform), not negative.
        edges: see `dmel_encode`.

    Returns:
        (..., C) uint8.

    Raises:
        ValueError: shapes or types that do not fit; the message names the argument.
    """
    if spectrum.dtype != torch.complex64:
        raise ValueError(f"spectrum: {spectrum.dtype}, expected torch.complex64")
    if filters.dtype != torch.float32 or filters.dim() != 2 or filters.shape[1] != spectrum.shape[-1]:
        expected = f"torch.float32 (channels, {spectrum.shape[-1]})"
        raise ValueError(f"filters: {filters.dtype} {tuple(filters.shape)}, expected {expected}")
    _check_edges(edges, "filters", (filters.shape[0],))
    return torch.ops.sigmel.dmel_encode_spectrum(spectrum, filters, edges)


def dmel_embed(ids: Tensor, tables: Tensor) -> Tensor:
    """Embeddings of dMel frames: the sum over the channels of a row of each channel's table, chosen by the id.

    A linear layer over the concatenation of per-channel embeddings (arXiv 2407.15835, section 2.2) is such a sum too,
    of tables that the layer was applied to: see `sigmel.layers.dmel`. No tensor of frames by channels by D is made.

    Args:
        ids: (N, C) uint8 in [0, V). On CUDA, where a check would have to wait for the device, an id beyond V adds
            nothing.
        tables: (C, V, D) float, one table a channel.

    Returns:
        (N, D) in the type of the tables.

    Raises:
        ValueError: shapes or types that do not fit or, on a CPU, ids beyond V; the message names the argument.
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
