"""The Triton kernels of sigmoid attention, which cuda.py starts.

Blocks are masked at the edge of a sequence, or of the keys that its queries see; blocks seen as a whole are not. So a
loop over blocks has three parts: blocks seen in part, as a whole, and in part. Without a limit there is no first part.
"""

# mypy: allow-untyped-defs
# mypy has no types for the arguments of Triton kernels.

import triton
import triton.language as tl

from sigmel.ops.sigmoid_attention.triton_blocks import (
    bounds_of,
    extent_of,
    find_block,
    find_queries,
    keys_of,
    load_block,
    numbers_of,
    pointer_to,
    queries_seeing,
    row_of,
    start_of,
    store_block,
    weights_of,
    within,
)
from sigmel.ops.triton_common import dot, narrow

_SUM = tl.constexpr(1024)  # rows added at once
# Compiled once for all values, whatever they are divisible by: lengths differ from batch to batch.
_VARYING = ["sequences", "query_rows", "key_rows", "left", "right", "bucket"]


# Forward.


@triton.jit
def _attend(
    total, query, k, v, k_strides, v_strides, pages, begin, end, keys, p, seen, numbers,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr, FAST: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """`total` (Q, D) and what the keys from `begin` to `end` give to the queries at p (Q,)."""
    for first in range(begin, end, BLOCK):
        key = load_block(k, k_strides, first, keys, D, BLOCK, BLOCK_D, EDGE, pages)
        value = load_block(v, v_strides, first, keys, D, BLOCK, BLOCK_D, EDGE, pages)
        at = first + tl.arange(0, BLOCK)
        weight = weights_of(query, key, p, at, numbers, FAST)
        if EDGE:
            weight = tl.where(within(seen[0][:, None], seen[1][:, None], at[None, :], LEFT), weight, 0.0)
        total = dot(narrow(weight, value.dtype), value, total)
    return total


@triton.jit(do_not_specialize=_VARYING)
def forward(
    q, k, v, bias, slopes, out, q_strides, k_strides, v_strides, bias_strides, out_strides, split_stride,
    cu_queries, query_lengths, query_rows, cu_keys, key_lengths, key_rows, query_start, page_table, page_size,
    sequences, heads, group, splits, scale, chunk, left, right, bucket,
    D: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, FAST: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: a block of queries of a head, over one of `splits` pieces of the keys that they see."""
    queries = (cu_queries, query_lengths, query_rows)
    keys = (cu_keys, key_lengths, key_rows)
    split = tl.program_id(0) % splits
    slots = tl.num_programs(0) // splits // heads
    head = tl.program_id(0) // splits // slots
    n, batch, origin, first, count, limit = find_queries(
        tl.program_id(0) // splits % slots, queries, sequences, BLOCK_Q
    )
    if first < 0:
        return
    key_batch, key_origin, key_count, p, seen, ends = keys_of(
        n, first, count, keys, query_start, sequences, (chunk, left, right), LEFT, RIGHT, BLOCK_Q, BLOCK_K
    )
    begin, inner, inner_end, end = ends
    piece = tl.cdiv(tl.cdiv(end - begin, BLOCK_K), splits) * BLOCK_K
    begin += split * piece
    end = tl.minimum(begin + piece, end)
    inner = tl.minimum(tl.maximum(inner, begin), end)
    ends = (begin, inner, tl.minimum(tl.maximum(inner_end, inner), end), end)

    query = load_block(
        pointer_to(q, q_strides, batch, head, origin), q_strides, first, count, D, BLOCK_Q, BLOCK_D, True
    )
    pages = None
    if page_table is not None:
        pages = (page_table + n.to(tl.int64) * (key_rows // page_size), page_size)
        key_batch = n * 0
    k = pointer_to(k, k_strides, key_batch, head // group, key_origin)
    v = pointer_to(v, v_strides, key_batch, head // group, key_origin)
    numbers = numbers_of(n, head, sequences, bias, slopes, bias_strides, scale, FAST)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    for part in tl.static_range(0 if LEFT else 1, 3):
        total = _attend(
            total, query, k, v, k_strides, v_strides, pages, ends[part], ends[part + 1], key_count, p, seen, numbers,
            D, BLOCK_D, BLOCK_K, LEFT, FAST, part != 1,
        )  # fmt: skip
    out = pointer_to(out + split.to(tl.int64) * split_stride, out_strides, batch, head, origin)
    store_block(out, out_strides, first, count, limit, total, D, BLOCK_Q, BLOCK_D)


# Backward.


@triton.jit
def _attend_backward(
    total, sums, query, above, k, v, k_strides, v_strides, begin, end, keys, p, seen, numbers,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr, FAST: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """`total` (Q, D) and `sums` (Q,), and what the keys from `begin` to `end` add: dS k, and the sums of dS."""
    for first in range(begin, end, BLOCK):
        key = load_block(k, k_strides, first, keys, D, BLOCK, BLOCK_D, EDGE)
        value = load_block(v, v_strides, first, keys, D, BLOCK, BLOCK_D, EDGE)
        at = first + tl.arange(0, BLOCK)
        weight = weights_of(query, key, p, at, numbers, FAST)
        score = weight * (1 - weight) * dot(above, tl.trans(value), None)
        if EDGE:
            score = tl.where(within(seen[0][:, None], seen[1][:, None], at[None, :], LEFT), score, 0.0)
        sums += tl.sum(score, 1)
        total = dot(narrow(score, key.dtype), key, total)
    return total, sums


@triton.jit(do_not_specialize=_VARYING)
def backward_queries(
    grad, q, k, v, bias, slopes, grad_q, sums, grad_strides, q_strides, k_strides, v_strides, bias_strides,
    grad_q_strides, cu_queries, query_lengths, query_rows, cu_keys, key_lengths, key_rows, query_start,
    sequences, heads, group, scale, chunk, left, right, bucket,
    D: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, FAST: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of a block of queries of a head, and the share of each query in that of the bias."""
    queries = (cu_queries, query_lengths, query_rows)
    keys = (cu_keys, key_lengths, key_rows)
    slots = tl.num_programs(0) // heads
    head = tl.program_id(0) // slots
    n, batch, origin, first, count, limit = find_queries(tl.program_id(0) % slots, queries, sequences, BLOCK_Q)
    if first < 0:
        return
    key_batch, key_origin, key_count, p, seen, ends = keys_of(
        n, first, count, keys, query_start, sequences, (chunk, left, right), LEFT, RIGHT, BLOCK_Q, BLOCK_K
    )

    q = pointer_to(q, q_strides, batch, head, origin)
    query = load_block(q, q_strides, first, count, D, BLOCK_Q, BLOCK_D, True)
    grad = pointer_to(grad, grad_strides, batch, head, origin)
    above = load_block(grad, grad_strides, first, count, D, BLOCK_Q, BLOCK_D, True)
    k = pointer_to(k, k_strides, key_batch, head // group, key_origin)
    v = pointer_to(v, v_strides, key_batch, head // group, key_origin)
    numbers = numbers_of(n, head, sequences, bias, slopes, bias_strides, scale, FAST)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    row_sums = tl.zeros((BLOCK_Q,), tl.float32)
    for part in tl.static_range(0 if LEFT else 1, 3):
        total, row_sums = _attend_backward(
            total, row_sums, query, above, k, v, k_strides, v_strides, ends[part], ends[part + 1], key_count, p, seen,
            numbers, D, BLOCK_D, BLOCK_K, LEFT, FAST, part != 1,
        )  # fmt: skip
    grad_q = pointer_to(grad_q, grad_q_strides, batch, head, origin)
    store_block(grad_q, grad_q_strides, first, count, limit, total * scale, D, BLOCK_Q, BLOCK_D)
    at = first + tl.arange(0, BLOCK_Q)
    tl.store(sums + row_of(batch, heads, head, query_rows, origin) + at, row_sums, mask=at < count)


@triton.jit
def _be_attended(
    total_k, total_v, key, value, q, grad, q_strides, grad_strides, begin, end, queries, at, keys, start, context,
    numbers, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    FAST: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """`total_k` and `total_v` (K, D), and what the queries from `begin` to `end` add for the keys `at` (K,)."""
    for first in range(begin, end, BLOCK):
        query = load_block(q, q_strides, first, queries, D, BLOCK, BLOCK_D, EDGE)
        above = load_block(grad, grad_strides, first, queries, D, BLOCK, BLOCK_D, EDGE)
        i = first + tl.arange(0, BLOCK)
        weight = weights_of(key, query, at, start + i, numbers, FAST)  # (K, Q), as all that follows
        score = weight * (1 - weight) * dot(value, tl.trans(above), None)
        if EDGE:
            low, high = bounds_of(start + i, keys, context, LEFT, RIGHT)
            seen = within(low[None, :], high[None, :], at[:, None], LEFT) & (i[None, :] < queries)
            weight = tl.where(seen, weight, 0.0)
            score = tl.where(seen, score, 0.0)
        total_v = dot(narrow(weight, above.dtype), above, total_v)
        total_k = dot(narrow(score, query.dtype), query, total_k)
    return total_k, total_v


@triton.jit(do_not_specialize=_VARYING)
def backward_keys(
    grad, q, k, v, bias, slopes, grad_k, grad_v, grad_strides, q_strides, k_strides, v_strides, bias_strides,
    grad_k_strides, grad_v_strides,
    cu_queries, query_lengths, query_rows, cu_keys, key_lengths, key_rows, query_start,
    sequences, heads, group, scale, chunk, left, right, bucket,
    D: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, FAST: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of a block of keys of a key head, from the query heads that it serves."""
    queries = (cu_queries, query_lengths, query_rows)
    keys = (cu_keys, key_lengths, key_rows)
    context = (chunk, left, right)
    slots = tl.num_programs(0) // heads
    key_head = tl.program_id(0) // slots
    n, block = find_block(tl.program_id(0) % slots, keys, sequences, BLOCK_K)
    batch, origin, count, limit = extent_of(n, keys, sequences)
    first = block * BLOCK_K
    if first >= limit:
        return
    query_batch, query_origin, query_count, _ = extent_of(n, queries, sequences)
    query_count = tl.where(first < count, query_count, 0)
    start = start_of(n, query_start, sequences)
    ends = queries_seeing(
        first, tl.minimum(first + BLOCK_K, count) - 1, start, query_count, context, LEFT, RIGHT, BLOCK_Q
    )

    k = pointer_to(k, k_strides, batch, key_head, origin)
    v = pointer_to(v, v_strides, batch, key_head, origin)
    key = load_block(k, k_strides, first, count, D, BLOCK_K, BLOCK_D, True)
    value = load_block(v, v_strides, first, count, D, BLOCK_K, BLOCK_D, True)
    at = first + tl.arange(0, BLOCK_K)
    total_k = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    total_v = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for member in range(group):
        head = key_head * group + member
        from_q = pointer_to(q, q_strides, query_batch, head, query_origin)
        from_grad = pointer_to(grad, grad_strides, query_batch, head, query_origin)
        numbers = numbers_of(n, head, sequences, bias, slopes, bias_strides, scale, FAST)
        for part in tl.static_range(0 if RIGHT else 1, 3):
            total_k, total_v = _be_attended(
                total_k, total_v, key, value, from_q, from_grad, q_strides, grad_strides, ends[part], ends[part + 1],
                query_count, at, count, start, context, numbers, D, BLOCK_D, BLOCK_Q, LEFT, RIGHT, FAST, part != 1,
            )  # fmt: skip
    grad_k = pointer_to(grad_k, grad_k_strides, batch, key_head, origin)
    grad_v = pointer_to(grad_v, grad_v_strides, batch, key_head, origin)
    store_block(grad_k, grad_k_strides, first, count, limit, total_k * scale, D, BLOCK_K, BLOCK_D)
    store_block(grad_v, grad_v_strides, first, count, limit, total_v, D, BLOCK_K, BLOCK_D)


@triton.jit(do_not_specialize=_VARYING[:2])
def add_up(sums, grad_bias, bias_strides, cu_queries, query_lengths, query_rows, sequences, heads):
    """One program: the gradient of the bias of a sequence and a head, summed over its queries."""
    n = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    batch, origin, count, _ = extent_of(n, (cu_queries, query_lengths, query_rows), sequences)
    sums += row_of(batch, heads, head, query_rows, origin)
    total = tl.zeros((_SUM,), tl.float32)
    for first in range(0, count, _SUM):
        at = first + tl.arange(0, _SUM)
        total += tl.load(sums + at, mask=at < count, other=0.0)
    tl.store(grad_bias + n.to(tl.int64) * bias_strides[0] + head * bias_strides[1], tl.sum(total))
