"""Errors that name the argument of sigmoid attention that does not fit."""

from __future__ import annotations

import torch
from torch import Tensor

from sigmel.ops.sigmoid_attention.reference import Inputs


def check_shapes(q: Tensor, k: Tensor, v: Tensor, names: tuple[str, str, str] = ("q", "k", "v"), dim: int = 4) -> None:
    """Queries (B, H, T, D), or packed (T, H, D), with keys and values whose heads serve them."""
    for name, x in zip(names, (q, k, v), strict=True):
        if x.dim() != dim or x.dtype != q.dtype:
            raise ValueError(f"{name}: {x.dim()} dimensions of {x.dtype}, expected {dim} of {q.dtype}")
    if k.shape != v.shape:
        raise ValueError(f"v: shape {tuple(v.shape)}, but k has {tuple(k.shape)}")
    heads = 1 if dim == 4 else -2
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"k: head size {k.shape[-1]}, but q has {q.shape[-1]}")
    if k.shape[heads] == 0 or q.shape[heads] % k.shape[heads]:
        raise ValueError(f"k: {k.shape[heads]} heads do not divide the {q.shape[heads]} of q")


def check_integers(shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Integers of one shape, or None."""
    for name, x in tensors.items():
        if x is not None and (x.shape != shape or x.is_floating_point()):
            raise ValueError(f"{name}: {x.dtype} of shape {tuple(x.shape)}, expected integers {shape}")


def check_cumulative(name: str, cu: Tensor) -> None:
    """Cumulative lengths of at least one sequence."""
    if cu.dim() != 1 or cu.shape[0] < 2 or cu.is_floating_point():
        raise ValueError(f"{name}: {cu.dtype} of shape {tuple(cu.shape)}, expected N + 1 integers")


def check_values(inputs: Inputs) -> None:
    """Numbers that say where queries and keys lie; on a CPU only, since to look at a device is to wait for it.

    The kernels of a device take what lies beyond for missing.
    """
    q, k, layout = inputs.q, inputs.k, inputs.layout
    pages, lengths = layout.page_table, layout.key_lengths
    keys = k.shape[2] * (1 if pages is None else pages.shape[1])
    for name, x, limit in (("query_lengths", layout.query_lengths, q.shape[2]), ("key_lengths", lengths, keys)):
        if x is not None and not _within(x, limit):
            raise ValueError(f"{name}: {x.tolist()} must lie between 0 and {limit}")
    for name, cu, total in (("cu_queries", layout.cu_queries, q.shape[2]), ("cu_keys", layout.cu_keys, k.shape[2])):
        if cu is not None and cu.is_cpu and (cu[0] != 0 or cu[-1] != total or (cu.diff() < 0).any()):
            raise ValueError(f"{name}: {cu.tolist()} must rise from 0 to {total}")
    if pages is not None and pages.is_cpu and lengths is not None:
        used = pages[torch.arange(pages.shape[1]) * k.shape[2] < lengths.cpu()[:, None]]
        if not _within(used, k.shape[0] - 1):
            raise ValueError(f"page_table: pages {used.min()} to {used.max()}, but k_cache has {k.shape[0]}")


def _within(x: Tensor, limit: int) -> bool:
    """Whether integers lie between 0 and a limit, as far as is known."""
    if not x.is_cpu or not x.numel():
        return True
    least, most = x.aminmax()
    return int(least) >= 0 and int(most) <= limit
