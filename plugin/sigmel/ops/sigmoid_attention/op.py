"""`torch.ops.sigmel.sigmoid_attention`, and the functions that people call."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigmel.ops.dispatch import operator
from sigmel.ops.sigmoid_attention import reference
from sigmel.ops.sigmoid_attention.checks import check_cumulative, check_integers, check_shapes, check_values
from sigmel.ops.sigmoid_attention.reference import Context, Inputs, Layout

_forward = operator(
    "sigmoid_attention", reference.forward, fake=lambda inputs: torch.empty_like(inputs.q), check=check_values
)
operator(
    "sigmoid_attention_backward",
    reference.backward,
    fake=lambda grad, inputs: tuple(map(torch.empty_like, inputs[:4])),
)


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:-4])
    ctx.numbers = inputs[-4:]


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors  # once: a checkpoint computes them when it is asked
    if saved[-1] is not None:
        raise RuntimeError("sigmoid attention over pages has no gradient: call it under torch.no_grad()")
    gradients = torch.ops.sigmel.sigmoid_attention_backward(grad, *saved, *ctx.numbers)
    return *gradients, *[None] * 11


_forward.register_autograd(_backward, setup_context=_save)


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
        bias: a number, or a tensor of shape (), (H,), (B, 1) or (B, H), which may need a gradient. Default: -ln n for
            a sequence of n keys.
        causal: a query sees no later key. Default: False.
        chunk_size: positions that see each other; a query sees no later chunk. Default: None, no chunks.
        left_context: keys that a query sees before its chunk. Default: None, all.
        window: (before, after), the keys a query sees around its position; -1 for all. Default: None, all.
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
    check_shapes(q, k, v)
    if k.shape[0] != q.shape[0]:
        raise ValueError(f"k: batch of {k.shape[0]}, but q has {q.shape[0]}")
    check_integers((q.shape[0],), query_lengths=query_lengths, key_lengths=key_lengths, query_start=query_start)
    layout = Layout(None, None, query_lengths, key_lengths, query_start)
    context = _context(causal, chunk_size, left_context, window)
    return _call(q, k, v, layout, context, scale, bias, alibi_slopes)


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
    """`sigmoid_attention` over packed sequences, which lie one after the other without padding.

    Args:
        q: (total queries, H, D).
        k, v: (total keys, Hkv, D).
        cu_queries: (N + 1,) integers from 0 to the total: how many queries lie before each sequence, and in all.
        cu_keys: (N + 1,) integers from 0 to the total: how many keys lie before each sequence, and in all.
        scale, bias, causal, chunk_size, left_context, window, alibi_slopes, query_start: as in `sigmoid_attention`,
            of N sequences instead of B.

    Returns:
        (total queries, H, D).

    Raises:
        ValueError: as in `sigmoid_attention`, or cumulative lengths that do not rise from 0 to the total.
    """
    check_shapes(q, k, v, dim=3)
    check_cumulative("cu_queries", cu_queries)
    check_cumulative("cu_keys", cu_keys)
    if len(cu_queries) != len(cu_keys):
        raise ValueError(f"cu_keys: {len(cu_keys) - 1} sequences, but cu_queries has {len(cu_queries) - 1}")
    check_integers((len(cu_queries) - 1,), query_start=query_start)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # (1, H, total, D)
    layout = Layout(cu_queries, cu_keys, None, None, query_start)
    context = _context(causal, chunk_size, left_context, window)
    return _call(q, k, v, layout, context, scale, bias, alibi_slopes)[0].transpose(0, 1)


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
    """`sigmoid_attention` of the newest positions of each sequence over a cache of all its keys.

    The query t of Tq stands at position `key_lengths - Tq + t`, and sees its own key and those before. A cache in
    pages has no gradient.

    Args:
        q: (B, H, Tq, D).
        k_cache, v_cache: (B, Hkv, Tmax, D), of which the first `key_lengths` exist; with a page table
            (pages, Hkv, page size, D).
        key_lengths: (B,) keys of each sequence, those of the queries included.
        page_table: (B, n) integers: the key at position p of a sequence is in page `page_table[b, p // page size]`, at
            `p % page size`. Entries beyond the length are not read. Default: None, a contiguous cache.
        scale, bias, left_context, alibi_slopes: as in `sigmoid_attention`; the default bias is -ln key_lengths.

    Returns:
        (B, H, Tq, D).

    Raises:
        ValueError: as in `sigmoid_attention`, or a page that the cache does not have.
    """
    check_shapes(q, k_cache, v_cache, ("q", "k_cache", "v_cache"))
    if page_table is not None:
        check_integers((q.shape[0], page_table.shape[-1]), page_table=page_table)
    elif k_cache.shape[0] != q.shape[0]:
        raise ValueError(f"k_cache: batch of {k_cache.shape[0]}, but q has {q.shape[0]}")
    check_integers((q.shape[0],), key_lengths=key_lengths)
    layout = Layout(None, None, None, key_lengths, key_lengths - q.shape[2], page_table)
    context = _context(True, None, left_context, None)
    return _call(q, k_cache, v_cache, layout, context, scale, bias, alibi_slopes)


def _call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    context: Context,
    scale: float | None,
    bias: float | Tensor | None,
    slopes: Tensor | None,
) -> Tensor:
    bias, (_, heads, _, size) = _bias(bias, q, k, layout), q.shape
    if slopes is not None and slopes.shape != (heads,):
        raise ValueError(f"alibi_slopes: shape {tuple(slopes.shape)}, expected ({heads},), one a query head")
    if torch.is_autocast_enabled(q.device.type):
        q, k, v = (x.to(torch.get_autocast_dtype(q.device.type)) for x in (q, k, v))
    scale = size**-0.5 if scale is None else scale
    if torch.jit.is_tracing():  # TorchScript's tracer, which NeMo exports with, has no name for our op
        return reference.dense(Inputs(q, k, v, bias, slopes, layout, scale, context))
    return torch.ops.sigmel.sigmoid_attention(q, k, v, bias, slopes, *layout, scale, *context)


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


def _bias(bias: float | Tensor | None, q: Tensor, k: Tensor, layout: Layout) -> Tensor:
    """(N, H) in float32, or float64 for such q; where no bias is given, from the number of keys of each sequence."""
    heads, dtype = q.shape[1], torch.float64 if q.dtype == torch.float64 else torch.float32
    count = q.shape[0] if layout.cu_keys is None else layout.cu_keys.shape[0] - 1
    keys = layout.key_lengths if layout.cu_keys is None else layout.cu_keys.diff()
    if bias is None:
        bias = -math.log(max(k.shape[2], 1)) if keys is None else -keys.clamp(min=1).to(q.device, dtype).log()[:, None]
    if not isinstance(bias, Tensor):
        bias = torch.full((1, 1), bias, dtype=dtype, device=q.device)
    # Of as many dimensions only: comparing others would tie a batch size to the number of heads in a traced graph.
    elif not any(bias.dim() == len(s) and bias.shape == s for s in ((), (heads,), (count, 1), (count, heads))):
        raise ValueError(
            f"bias: shape {tuple(bias.shape)}, expected (), ({heads},), ({count}, 1) or ({count}, {heads})"
        )
    return bias.to(q.device, dtype).expand(count, heads)
