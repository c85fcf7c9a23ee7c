"""`torch.ops.sigmel.sigmoid_attention`: schema, fake kernels, autograd, and the functions that people call."""

from __future__ import annotations

import math
from types import ModuleType
from typing import TypeGuard

import torch
from torch import Tensor

from sigmel.ops.dispatch import serving
from sigmel.ops.sigmoid_attention import reference
from sigmel.ops.sigmoid_attention.reference import Context, Inputs, Layout


@torch.library.custom_op("sigmel::sigmoid_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    slopes: Tensor | None,
    cu_queries: Tensor | None,
    cu_keys: Tensor | None,
    query_lengths: Tensor | None,
    key_lengths: Tensor | None,
    query_start: Tensor | None,
    page_table: Tensor | None,
    scale: float,
    chunk: int,
    left: int,
    right: int,
) -> Tensor:
    layout = Layout(cu_queries, cu_keys, query_lengths, key_lengths, query_start, page_table)
    _check_values(q, k, layout)
    return _implementation(q).forward(Inputs(q, k, v, bias, slopes, layout, scale, Context(chunk, left, right)))


@_attention.register_fake
def _(q, k, v, bias, *rest):  # type: ignore[no-untyped-def]
    return torch.empty_like(q)


@torch.library.custom_op("sigmel::sigmoid_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    slopes: Tensor | None,
    cu_queries: Tensor | None,
    cu_keys: Tensor | None,
    query_lengths: Tensor | None,
    key_lengths: Tensor | None,
    query_start: Tensor | None,
    page_table: Tensor | None,
    scale: float,
    chunk: int,
    left: int,
    right: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    layout = Layout(cu_queries, cu_keys, query_lengths, key_lengths, query_start, page_table)
    inputs = Inputs(q, k, v, bias, slopes, layout, scale, Context(chunk, left, right))
    return _implementation(q).backward(grad, inputs)


@_attention_backward.register_fake
def _(grad, q, k, v, bias, *rest):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t) for t in (q, k, v, bias))


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:-4])
    ctx.numbers = inputs[-4:]


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors  # once: a checkpoint computes them when it is asked
    if saved[-1] is not None:
        raise RuntimeError("sigmoid attention over pages has no gradient: call it under torch.no_grad()")
    gradients = torch.ops.sigmel.sigmoid_attention_backward(grad, *saved, *ctx.numbers)
    return *gradients, *[None] * 11


_attention.register_autograd(_backward, setup_context=_save)


def _implementation(q: Tensor) -> ModuleType:
    """The module that serves a call: the plain definition where no other can."""
    form = f"sigmel.ops.sigmoid_attention.{'cpu' if q.device.type == 'cpu' else 'cuda'}"
    return serving(form, "sigmoid attention takes its slow form, with a matrix of weights", q) or reference


def sigmoid_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    bias: float | Tensor | None = None,
    causal: bool = False,
    chunk_size: int | None = None,
    left_context: int | None = None,
    window: tuple[int, int] | None = None,
    alibi_slopes: Tensor | None = None,
    query_lengths: Tensor | None = None,
    key_lengths: Tensor | None = None,
    query_start: Tensor | None = None,
) -> Tensor:
    """`sigmoid(scale * q k^T - slopes * distance + bias) v` (arXiv 2409.04431), without the matrix of weights.

    Under autocast q, k and v are cast to the autocast dtype. Computed in float32 at least.

    Args:
        q: (B, H, Tq, D).
        k, v: (B, Hkv, Tk, D); Hkv divides H, and each key head serves H / Hkv query heads (MQA, GQA).
        scale: of the scores. Default: D ** -0.5.
        bias: a number, or a tensor of shape (), (H,), (B, 1) or (B, H), which may need a gradient. Default: -ln n, n
            being the number of keys of each sequence.
        causal: a query sees no later key. Default: False.
        chunk_size: positions that see each other; a query sees no later chunk. Default: None, no chunks.
        left_context: keys that a query sees before its chunk. Default: None, all.
        window: (before, after), the keys a query sees around its position; -1 is all. Default: None, all.
        alibi_slopes: (H,) what a score loses a step of distance. Default: None.
        query_lengths: (B,) queries that exist; the output of the others is zero. Default: all.
        key_lengths: (B,) keys that exist. Default: all.
        query_start: (B,) position of the first query among the keys, as in decoding with a cache. Default: 0.

    Returns:
        (B, H, Tq, D), in the dtype of q (of autocast, where it is on).

    Raises:
        ValueError: shapes that do not fit, options that contradict each other, a negative window, a length beyond T;
            the message names the argument.
    """
    _check_shapes(q, k, v, ("q", "k", "v"), 4)
    batch, heads = q.shape[:2]
    if k.shape[0] != batch:
        raise ValueError(f"k: batch of {k.shape[0]}, but q has {batch}")
    for name, lengths in (
        ("query_lengths", query_lengths),
        ("key_lengths", key_lengths),
        ("query_start", query_start),
    ):
        _check_lengths(name, lengths, batch)
    layout = Layout(None, None, query_lengths, key_lengths, query_start)
    context = _context(causal, chunk_size, left_context, window)
    if bias is None and key_lengths is None:
        bias = -math.log(max(k.shape[2], 1))
    return _call(q, k, v, scale, _bias(bias, key_lengths, batch, heads, q), alibi_slopes, layout, context)


def sigmoid_attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_queries: Tensor,
    cu_keys: Tensor,
    *,
    scale: float | None = None,
    bias: float | Tensor | None = None,
    causal: bool = False,
    chunk_size: int | None = None,
    left_context: int | None = None,
    window: tuple[int, int] | None = None,
    alibi_slopes: Tensor | None = None,
    query_start: Tensor | None = None,
) -> Tensor:
    """`sigmoid_attention` over sequences that lie one after the other, without padding.

    Args:
        q: (total queries, H, D).
        k, v: (total keys, Hkv, D).
        cu_queries: (N + 1,) integers, the sum of the lengths of the sequences before each, from 0 to the total.
        cu_keys: (N + 1,) the same of the keys.
        scale, bias, causal, chunk_size, left_context, window, alibi_slopes, query_start: as there, N for B.

    Returns:
        (total queries, H, D).

    Raises:
        ValueError: as there, or cumulative lengths that do not go from 0 to the total.
    """
    _check_shapes(q, k, v, ("q", "k", "v"), 3)
    for name, cu in (("cu_queries", cu_queries), ("cu_keys", cu_keys)):
        _check_cumulative(name, cu)
    if len(cu_queries) != len(cu_keys):
        raise ValueError(f"cu_keys: {len(cu_keys) - 1} sequences, but cu_queries has {len(cu_queries) - 1}")
    _check_lengths("query_start", query_start, len(cu_queries) - 1)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, total, D)
    layout = Layout(cu_queries, cu_keys, None, None, query_start)
    context = _context(causal, chunk_size, left_context, window)
    bias = _bias(bias, cu_keys.diff(), cu_keys.shape[0] - 1, q.shape[1], q)
    return _call(q, k, v, scale, bias, alibi_slopes, layout, context)[0].transpose(0, 1)


def sigmoid_attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    key_lengths: Tensor,
    *,
    page_table: Tensor | None = None,
    scale: float | None = None,
    bias: float | Tensor | None = None,
    left_context: int | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """`sigmoid_attention` of the newest positions of each sequence over a cache of its keys, their own included.

    The query t of Tq stands at position `key_lengths - Tq + t`, and sees itself and what came before. A cache in pages
    has no gradient.

    Args:
        q: (B, H, Tq, D).
        k_cache, v_cache: (B, Hkv, Tmax, D), of which the first `key_lengths` are there; with a page table
            (pages, Hkv, page size, D).
        key_lengths: (B,) keys of each sequence, those of the queries included.
        page_table: (B, n) integers: the key at position p of a sequence is in page `page_table[b, p // page size]`, at
            `p % page size`. Entries beyond the length are not looked at. Default: None, a contiguous cache.
        scale, bias, left_context, alibi_slopes: as there; the default of the bias is -ln key_lengths.

    Returns:
        (B, H, Tq, D).

    Raises:
        ValueError: as there, or a page that the cache does not have.
    """
    _check_shapes(q, k_cache, v_cache, ("q", "k_cache", "v_cache"), 4)
    batch, heads, queries = q.shape[:3]
    if page_table is not None:
        _check_shape("page_table", page_table, (batch, page_table.shape[-1]))
    elif k_cache.shape[0] != batch:
        raise ValueError(f"k_cache: batch of {k_cache.shape[0]}, but q has {batch}")
    _check_lengths("key_lengths", key_lengths, batch)
    layout = Layout(None, None, None, key_lengths, key_lengths - queries, page_table)
    bias = _bias(bias, key_lengths, batch, heads, q)
    return _call(q, k_cache, v_cache, scale, bias, alibi_slopes, layout, _context(True, None, left_context, None))


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    bias: Tensor,
    slopes: Tensor | None,
    layout: Layout,
    context: Context,
) -> Tensor:
    heads, size = q.shape[1], q.shape[3]
    if slopes is not None and slopes.shape != (heads,):
        raise ValueError(f"alibi_slopes: shape {tuple(slopes.shape)}, expected ({heads},), one a query head")
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    scale = size**-0.5 if scale is None else scale
    # TorchScript's tracer, which NeMo exports with, has no name for our op.
    run = reference.dense if torch.jit.is_tracing() else torch.ops.sigmel.sigmoid_attention
    return run(q, k, v, bias, slopes, *layout, scale, *context)


def _context(
    causal: bool, chunk_size: int | None, left_context: int | None, window: tuple[int, int] | None
) -> Context:
    if causal + (chunk_size is not None) + (window is not None) > 1:
        raise ValueError("causal, chunk_size and window: give one of them")
    if window is not None:
        if left_context is not None:
            raise ValueError("left_context: window says it already")
        if len(window) != 2 or min(window) < -1:
            raise ValueError(f"window: {window} must be two numbers of keys, -1 for all")
        return Context(1, *window)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size: {chunk_size} must be at least 1")
    if left_context is not None and left_context < 0:
        raise ValueError(f"left_context: {left_context} must not be negative")
    left = -1 if left_context is None else left_context
    return Context(chunk_size or 1, left, -1 if chunk_size is None and not causal else 0)


def _bias(bias: float | Tensor | None, keys: Tensor | None, count: int, heads: int, q: Tensor) -> Tensor:
    """(N, H) in float32, or float64 for such q; of None, from the number of keys of each of the N sequences."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    if bias is None:
        assert keys is not None
        bias = -keys.clamp(min=1).to(q.device, dtype).log()[:, None]
    elif not isinstance(bias, Tensor):
        bias = torch.full((1, 1), bias, dtype=dtype, device=q.device)
    # Of as many dimensions only: comparing others would tie a batch size to the number of heads in a traced graph.
    elif not any(bias.dim() == len(s) and bias.shape == s for s in ((), (heads,), (count, 1), (count, heads))):
        raise ValueError(
            f"bias: shape {tuple(bias.shape)}, expected (), ({heads},), ({count}, 1) or ({count}, {heads})"
        )
    return bias.to(q.device, dtype).expand(count, heads)


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, names: tuple[str, str, str], dim: int) -> None:
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


def _check_shape(name: str, integers: Tensor, shape: tuple[int, ...]) -> None:
    if integers.shape != shape or integers.is_floating_point():
        raise ValueError(f"{name}: {integers.dtype} of shape {tuple(integers.shape)}, expected integers {shape}")


def _check_lengths(name: str, lengths: Tensor | None, count: int) -> None:
    if lengths is not None:
        _check_shape(name, lengths, (count,))


def _check_cumulative(name: str, cu: Tensor) -> None:
    if cu.dim() != 1 or cu.shape[0] < 2 or cu.is_floating_point():
        raise ValueError(f"{name}: {cu.dtype} of shape {tuple(cu.shape)}, expected N + 1 integers")


def _check_values(q: Tensor, k: Tensor, layout: Layout) -> None:
    """Check what says where queries and keys lie, inside the op: a compiled graph has the values only there.

    On a device, to look at them would be to wait for it; the kernels there take what is beyond for missing.
    """
    pages = layout.page_table
    keys = k.shape[2] * (1 if pages is None else pages.shape[1])
    for name, lengths, limit in (
        ("query_lengths", layout.query_lengths, q.shape[2]),
        ("key_lengths", layout.key_lengths, keys),
    ):
        if _known(lengths) and not _within(lengths, 0, limit):
            raise ValueError(f"{name}: {lengths.tolist()} must lie between 0 and {limit}")
    for name, cu, total in (("cu_queries", layout.cu_queries, q.shape[2]), ("cu_keys", layout.cu_keys, k.shape[2])):
        if _known(cu) and (cu[0] != 0 or cu[-1] != total or (cu.diff() < 0).any()):
            raise ValueError(f"{name}: {cu.tolist()} must rise from 0 to {total}")
    if _known(pages) and layout.key_lengths is not None:
        begins = torch.arange(pages.shape[1]) * k.shape[2]
        used = pages[begins < layout.key_lengths.cpu()[:, None]]
        if not _within(used, 0, k.shape[0] - 1):
            raise ValueError(f"page_table: pages {used.min()} to {used.max()}, but k_cache has {k.shape[0]}")


def _known(integers: Tensor | None) -> TypeGuard[Tensor]:
    return integers is not None and integers.device.type == "cpu"


def _within(integers: Tensor, low: int, high: int) -> bool:
    if not integers.numel():
        return True
    least, most = integers.aminmax()
    return low <= int(least) and int(most) <= high
