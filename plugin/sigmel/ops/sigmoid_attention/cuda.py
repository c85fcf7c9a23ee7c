"""Triton kernels of sigmoid attention for CUDA: what reference.py defines, without the matrix of weights.

A sigmoid needs neither the greatest score of a row nor the sum of its weights. So the forward pass is one loop over
the keys that keeps nothing but the output, the keys may be cut in pieces whose outputs are just added, and the
backward pass works the weights out again from q and k alone: `dS = P (1 - P) dP`. No kernel uses atomics: a call made
twice gives the same bits, once the tuner has chosen a configuration. Under `torch.use_deterministic_algorithms` it
measures nothing and takes the first, so that two runs of a program agree, too.

Padded and packed sequences go through the same kernels. A program is given a slot: a sequence, and a block of its
queries or keys. Of a padded batch, slots are counted. Of packed sequences, whose lengths only the device knows, the
kernel finds them (see `find`), so nothing waits for the device. One more sequence, after the last, has no queries and
no keys; it writes zeros where the cumulative lengths end early.

Only the blocks at the edge of a sequence, or of what its queries see, are masked; those seen as a whole are not.
"""

# mypy: allow-untyped-defs
# The kernels: what Triton takes has no types that mypy knows.

import functools
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sigmel.ops.sigmoid_attention.reference import Inputs
from sigmel.ops.triton_common import INTERPRETED, Choices, device_problem, dot, find, narrow, tuned

LARGEST_HEAD = 256
FEW = 16  # queries, at most, whose keys are cut in pieces for want of other work
FAR = 2**29  # keys: as good as infinitely many, and twice that is still an int32

# Half precision may use the one instruction of the device. Where weights are near 1 / n its error may be too large for
# the authors' acceptance rule: it stays off until test_weights_near_one_over_n has passed with it on a device.
HARDWARE_TANH = False

_SUM = tl.constexpr(1024)  # rows added at once
# Compiled once, whatever they are divisible by: lengths differ from batch to batch.
_VARYING = ["sequences", "query_rows", "key_rows", "left", "right", "bucket"]


# Arithmetic.


@triton.jit
def _sigmoid(x, FAST: tl.constexpr):
    """Of x, or of 2 x if FAST: then one instruction, of limited precision."""
    if FAST:
        return 0.5 * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1) + 0.5
    else:
        return tl.sigmoid(x)


@triton.jit
def _numbers(n, head, sequences, bias, slopes, bias_strides, scale, FAST: tl.constexpr):
    """What makes a weight of a product: scale, bias and slope, halved if FAST."""
    half = 0.5 if FAST else 1.0
    bias += n.to(tl.int64) * bias_strides[0] + head * bias_strides[1]
    offset = tl.load(bias, mask=n < sequences, other=0.0).to(tl.float32) * half
    if slopes is None:
        return scale * half, offset, None
    else:
        return scale * half, offset, tl.load(slopes + head).to(tl.float32) * half


@triton.jit
def _weights(a, b, at_a, at_b, numbers, FAST: tl.constexpr):
    """(A, B) weights of (A, D) and (B, D) at their positions: queries and keys, or keys and queries."""
    scores = dot(a, tl.trans(b), None) * numbers[0] + numbers[1]
    if numbers[2] is not None:
        scores -= numbers[2] * tl.abs(at_a[:, None] - at_b[None, :]).to(tl.float32)
    return _sigmoid(scores, FAST)


# Where things are. A side, the queries or the keys, is (cumulative lengths or None, lengths or None, rows).


@triton.jit
def _find(slot, side, sequences, BLOCK: tl.constexpr):
    """The sequence of a slot, and which of its blocks this is."""
    if side[0] is None:
        blocks = tl.cdiv(side[2], BLOCK)
        return slot // blocks, slot % blocks
    else:
        return find(slot, side[0], sequences, BLOCK)


@triton.jit
def _extent(n, side, sequences):
    """Of a sequence: its place in the batch, its first row there, how many rows it has, and how many it could have."""
    if side[0] is None:
        limit = n * 0 + side[2]
        count = limit
        if side[1] is not None:
            count = tl.minimum(tl.maximum(tl.load(side[1] + n).to(tl.int32), 0), limit)
        return n, n * 0, count, limit
    else:
        origin = tl.load(side[0] + n).to(tl.int32)
        end = tl.load(side[0] + n + 1, mask=n < sequences, other=0).to(tl.int32)
        return n * 0, origin, tl.maximum(end - origin, 0), tl.where(n < sequences, end, side[2]) - origin


@triton.jit
def _queries_of(slot, queries, sequences, BLOCK: tl.constexpr):
    """The sequence of a slot, where it lies, and the first query of its block: negative if the slot is not needed."""
    n, block = _find(slot, queries, sequences, BLOCK)
    batch, origin, count, limit = _extent(n, queries, sequences)
    # Backwards: under a causal mask, the blocks with the most work come first.
    return n, batch, origin, (tl.cdiv(limit, BLOCK) - 1 - block) * BLOCK, count, limit


@triton.jit
def _start(n, query_start, sequences):
    """Position of the first query of a sequence among its keys."""
    if query_start is None:
        return n * 0
    else:
        return tl.load(query_start + n, mask=n < sequences, other=0).to(tl.int32)


@triton.jit
def _rows(x, strides, batch, head, origin):
    """Pointer to the first row of a sequence in x (B, H, T, D)."""
    return x + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1] + origin.to(tl.int64) * strides[2]


@triton.jit
def _row(batch, heads, head, rows, origin):
    """The first row of a sequence among all of (B, H, T)."""
    return (batch * heads + head).to(tl.int64) * rows + origin


@triton.jit
def _pointers(x, strides, first, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    x += tl.cast(first, tl.int64) * strides[2]
    return x + tl.arange(0, BLOCK)[:, None] * strides[2] + tl.arange(0, BLOCK_D)[None, :] * strides[3]


@triton.jit
def _paged(x, strides, pages, first, limit, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """As `_pointers`, of rows that lie in pages: `pages` is (the numbers of a sequence's pages, rows a page)."""
    rows = first + tl.arange(0, BLOCK)
    page = tl.load(pages[0] + rows // pages[1], mask=rows < limit, other=0).to(tl.int64)
    x += page[:, None] * strides[0] + (rows % pages[1])[:, None] * strides[2]
    return x + tl.arange(0, BLOCK_D)[None, :] * strides[3]


@triton.jit
def _load(
    x, strides, first, limit, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, EDGE: tl.constexpr,
    pages=None,
):  # fmt: skip
    """(BLOCK, BLOCK_D) from row `first` on, zero from column D on and, if EDGE, from row `limit` on."""
    if pages is None:
        pointers = _pointers(x, strides, first, BLOCK, BLOCK_D)
    else:
        pointers = _paged(x, strides, pages, first, limit, BLOCK, BLOCK_D)
    rows = first + tl.arange(0, BLOCK)[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    if EDGE and D < BLOCK_D:
        return tl.load(pointers, mask=(rows < limit) & (columns < D), other=0.0)
    elif EDGE:
        return tl.load(pointers, mask=rows < limit, other=0.0)
    elif D < BLOCK_D:
        return tl.load(pointers, mask=columns < D, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def _store(x, strides, first, count, limit, block, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Writes the rows from `first` to `limit`: those of the block up to `count`, then zeros."""
    rows = first + tl.arange(0, BLOCK)[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    block = narrow(tl.where(rows < count, block, 0.0), x.dtype.element_ty)
    tl.store(_pointers(x, strides, first, BLOCK, BLOCK_D), block, mask=(rows < limit) & (columns < D))


# Who sees whom. Both ends of what a query sees rise with its position, so the first and the last query of a block tell
# which blocks of keys are seen by all of them, by some, or by none; and the same the other way round. LEFT and RIGHT
# say whether there is such a limit at all.


@triton.jit
def _bounds(p, keys, context, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """From which key, and up to which, the query at p sees its `keys` keys."""
    first = p // context[0] * context[0]
    low = first * 0
    high = first * 0 + keys
    if LEFT:
        low = tl.maximum(first - context[1], 0)
    if RIGHT:
        high = tl.minimum(first + context[0] + context[2], high)
    return low, high


@triton.jit
def _seen(low, high, at, LEFT: tl.constexpr):
    return (at >= low) & (at < high) if LEFT else at < high


@triton.jit
def _cut(begin, inner, inner_end, end, BLOCK: tl.constexpr):
    """Rounds to blocks: seen in part from begin to inner, in full from inner to inner_end, then in part up to end."""
    begin = begin // BLOCK * BLOCK
    end = tl.maximum(end, begin)
    inner = tl.minimum(tl.cdiv(inner, BLOCK) * BLOCK, end)
    return begin, inner, tl.maximum(inner_end // BLOCK * BLOCK, inner), end


@triton.jit
def _keys_seen(first, last, keys, context, LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK: tl.constexpr):
    """The blocks of keys that the queries at the positions from `first` to `last` see; as `_cut`."""
    begin, inner_end = _bounds(first, keys, context, LEFT, RIGHT)
    inner, end = _bounds(last, keys, context, LEFT, RIGHT)
    return _cut(begin, inner, inner_end, end, BLOCK)


@triton.jit
def _queries_seeing(
    first, last, start, queries, context, LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK: tl.constexpr
):
    """The blocks of queries, counted from the first query, that see the keys from `first` to `last`; as `_cut`."""
    begin = first * 0
    inner = begin
    end = begin + queries
    inner_end = end
    if RIGHT:  # a key is seen from the chunk on that `right` reaches it from
        begin = tl.maximum(tl.maximum(first - context[2], 0) // context[0] * context[0] - start, 0)
        inner = tl.maximum(tl.maximum(last - context[2], 0) // context[0] * context[0] - start, 0)
    if LEFT:  # and up to the chunk that `left` reaches it from
        end = tl.minimum(((last + context[1]) // context[0] + 1) * context[0] - start, end)
        inner_end = tl.minimum(((first + context[1]) // context[0] + 1) * context[0] - start, inner_end)
        inner_end = tl.maximum(inner_end, 0)
    return _cut(begin, inner, inner_end, end, BLOCK)


# Forward.


@triton.jit
def _attend(
    total, query, k, v, k_strides, v_strides, pages, begin, end, keys, p, low, high, numbers,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr, FAST: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """`total` (Q, D) and what the keys from `begin` to `end` give to the queries at p (Q,)."""
    for first in range(begin, end, BLOCK):
        key = _load(k, k_strides, first, keys, D, BLOCK, BLOCK_D, EDGE, pages)
        value = _load(v, v_strides, first, keys, D, BLOCK, BLOCK_D, EDGE, pages)
        at = first + tl.arange(0, BLOCK)
        weight = _weights(query, key, p, at, numbers, FAST)
        if EDGE:
            weight = tl.where(_seen(low[:, None], high[:, None], at[None, :], LEFT), weight, 0.0)
        total = dot(narrow(weight, value.dtype), value, total)
    return total


@triton.jit(do_not_specialize=_VARYING)
def _forward(
    q, k, v, bias, slopes, out, q_strides, k_strides, v_strides, bias_strides, out_strides, split_stride,
    cu_queries, query_lengths, query_rows, cu_keys, key_lengths, key_rows, query_start, page_table, page_size,
    sequences, heads, group, splits, scale, chunk, left, right, bucket,
    D: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, FAST: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: a block of queries of a head, over one of `splits` pieces of the keys that they see."""
    queries = (cu_queries, query_lengths, query_rows)
    keys = (cu_keys, key_lengths, key_rows)
    context = (chunk, left, right)
    split = tl.program_id(0) % splits
    slots = tl.num_programs(0) // splits // heads
    head = tl.program_id(0) // splits // slots
    n, batch, origin, first, count, limit = _queries_of(
        tl.program_id(0) // splits % slots, queries, sequences, BLOCK_Q
    )
    if first < 0:
        return
    key_batch, key_origin, key_count, _ = _extent(n, keys, sequences)
    key_count = tl.where(first < count, key_count, 0)
    start = _start(n, query_start, sequences) + first
    p = start + tl.arange(0, BLOCK_Q)
    low, high = _bounds(p, key_count, context, LEFT, RIGHT)
    last = start + tl.minimum(BLOCK_Q, count - first) - 1
    begin, inner, inner_end, end = _keys_seen(start, last, key_count, context, LEFT, RIGHT, BLOCK_K)
    piece = tl.cdiv(tl.cdiv(end - begin, BLOCK_K), splits) * BLOCK_K
    begin += split * piece
    end = tl.minimum(begin + piece, end)
    inner = tl.minimum(tl.maximum(inner, begin), end)
    inner_end = tl.minimum(tl.maximum(inner_end, inner), end)

    query = _load(_rows(q, q_strides, batch, head, origin), q_strides, first, count, D, BLOCK_Q, BLOCK_D, True)
    pages = None
    if page_table is not None:
        pages = (page_table + n.to(tl.int64) * (key_rows // page_size), page_size)
        key_batch = n * 0
    k = _rows(k, k_strides, key_batch, head // group, key_origin)
    v = _rows(v, v_strides, key_batch, head // group, key_origin)
    numbers = _numbers(n, head, sequences, bias, slopes, bias_strides, scale, FAST)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    if LEFT:
        total = _attend(
            total, query, k, v, k_strides, v_strides, pages, begin, inner, key_count, p, low, high, numbers,
            D, BLOCK_D, BLOCK_K, LEFT, FAST, True,
        )  # fmt: skip
    total = _attend(
        total, query, k, v, k_strides, v_strides, pages, inner, inner_end, key_count, p, low, high, numbers,
        D, BLOCK_D, BLOCK_K, LEFT, FAST, False,
    )  # fmt: skip
    total = _attend(
        total, query, k, v, k_strides, v_strides, pages, inner_end, end, key_count, p, low, high, numbers,
        D, BLOCK_D, BLOCK_K, LEFT, FAST, True,
    )  # fmt: skip
    out = _rows(out + split.to(tl.int64) * split_stride, out_strides, batch, head, origin)
    _store(out, out_strides, first, count, limit, total, D, BLOCK_Q, BLOCK_D)


# Backward.


@triton.jit
def _attend_backward(
    total, sums, query, above, k, v, k_strides, v_strides, begin, end, keys, p, low, high, numbers,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr, FAST: tl.constexpr,
    EDGE: tl.constexpr,
):  # fmt: skip
    """`total` (Q, D) and `sums` (Q,), and what the keys from `begin` to `end` add: dS k, and the sums of dS."""
    for first in range(begin, end, BLOCK):
        key = _load(k, k_strides, first, keys, D, BLOCK, BLOCK_D, EDGE)
        value = _load(v, v_strides, first, keys, D, BLOCK, BLOCK_D, EDGE)
        at = first + tl.arange(0, BLOCK)
        weight = _weights(query, key, p, at, numbers, FAST)
        score = weight * (1 - weight) * dot(above, tl.trans(value), None)
        if EDGE:
            score = tl.where(_seen(low[:, None], high[:, None], at[None, :], LEFT), score, 0.0)
        sums += tl.sum(score, 1)
        total = dot(narrow(score, key.dtype), key, total)
    return total, sums


@triton.jit(do_not_specialize=_VARYING)
def _backward_queries(
    grad, q, k, v, bias, slopes, grad_q, sums, grad_strides, q_strides, k_strides, v_strides, bias_strides,
    grad_q_strides, cu_queries, query_lengths, query_rows, cu_keys, key_lengths, key_rows, query_start,
    sequences, heads, group, scale, chunk, left, right, bucket,
    D: tl.constexpr, BLOCK_D: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, FAST: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of a block of queries of a head, and what each of them gives to that of the bias."""
    queries = (cu_queries, query_lengths, query_rows)
    keys = (cu_keys, key_lengths, key_rows)
    context = (chunk, left, right)
    slots = tl.num_programs(0) // heads
    head = tl.program_id(0) // slots
    n, batch, origin, first, count, limit = _queries_of(tl.program_id(0) % slots, queries, sequences, BLOCK_Q)
    if first < 0:
        return
    key_batch, key_origin, key_count, _ = _extent(n, keys, sequences)
    key_count = tl.where(first < count, key_count, 0)
    start = _start(n, query_start, sequences) + first
    p = start + tl.arange(0, BLOCK_Q)
    low, high = _bounds(p, key_count, context, LEFT, RIGHT)
    last = start + tl.minimum(BLOCK_Q, count - first) - 1
    begin, inner, inner_end, end = _keys_seen(start, last, key_count, context, LEFT, RIGHT, BLOCK_K)

    query = _load(_rows(q, q_strides, batch, head, origin), q_strides, first, count, D, BLOCK_Q, BLOCK_D, True)
    grad = _rows(grad, grad_strides, batch, head, origin)
    above = _load(grad, grad_strides, first, count, D, BLOCK_Q, BLOCK_D, True)
    k = _rows(k, k_strides, key_batch, head // group, key_origin)
    v = _rows(v, v_strides, key_batch, head // group, key_origin)
    numbers = _numbers(n, head, sequences, bias, slopes, bias_strides, scale, FAST)
    total = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    row_sums = tl.zeros((BLOCK_Q,), tl.float32)
    if LEFT:
        total, row_sums = _attend_backward(
            total, row_sums, query, above, k, v, k_strides, v_strides, begin, inner, key_count, p, low, high, numbers,
            D, BLOCK_D, BLOCK_K, LEFT, FAST, True,
        )  # fmt: skip
    total, row_sums = _attend_backward(
        total, row_sums, query, above, k, v, k_strides, v_strides, inner, inner_end, key_count, p, low, high, numbers,
        D, BLOCK_D, BLOCK_K, LEFT, FAST, False,
    )  # fmt: skip
    total, row_sums = _attend_backward(
        total, row_sums, query, above, k, v, k_strides, v_strides, inner_end, end, key_count, p, low, high, numbers,
        D, BLOCK_D, BLOCK_K, LEFT, FAST, True,
    )  # fmt: skip
    grad_q = _rows(grad_q, grad_q_strides, batch, head, origin)
    _store(grad_q, grad_q_strides, first, count, limit, total * scale, D, BLOCK_Q, BLOCK_D)
    at = first + tl.arange(0, BLOCK_Q)
    tl.store(sums + _row(batch, heads, head, query_rows, origin) + at, row_sums, mask=at < count)


@triton.jit
def _be_attended(
    total_k, total_v, key, value, q, grad, q_strides, grad_strides, begin, end, queries, at, keys, start, context,
    numbers, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    FAST: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """`total_k` and `total_v` (K, D), and what the queries from `begin` to `end` add for the keys `at` (K,)."""
    for first in range(begin, end, BLOCK):
        query = _load(q, q_strides, first, queries, D, BLOCK, BLOCK_D, EDGE)
        above = _load(grad, grad_strides, first, queries, D, BLOCK, BLOCK_D, EDGE)
        i = first + tl.arange(0, BLOCK)
        weight = _weights(key, query, at, start + i, numbers, FAST)  # (K, Q), as all that follows
        score = weight * (1 - weight) * dot(value, tl.trans(above), None)
        if EDGE:
            low, high = _bounds(start + i, keys, context, LEFT, RIGHT)
            seen = _seen(low[None, :], high[None, :], at[:, None], LEFT) & (i[None, :] < queries)
            weight = tl.where(seen, weight, 0.0)
            score = tl.where(seen, score, 0.0)
        total_v = dot(narrow(weight, above.dtype), above, total_v)
        total_k = dot(narrow(score, query.dtype), query, total_k)
    return total_k, total_v


@triton.jit(do_not_specialize=_VARYING)
def _backward_keys(
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
    n, block = _find(tl.program_id(0) % slots, keys, sequences, BLOCK_K)
    batch, origin, count, limit = _extent(n, keys, sequences)
    first = block * BLOCK_K
    if first >= limit:
        return
    query_batch, query_origin, query_count, _ = _extent(n, queries, sequences)
    query_count = tl.where(first < count, query_count, 0)
    start = _start(n, query_start, sequences)
    begin, inner, inner_end, end = _queries_seeing(
        first, tl.minimum(first + BLOCK_K, count) - 1, start, query_count, context, LEFT, RIGHT, BLOCK_Q
    )

    k = _rows(k, k_strides, batch, key_head, origin)
    v = _rows(v, v_strides, batch, key_head, origin)
    key = _load(k, k_strides, first, count, D, BLOCK_K, BLOCK_D, True)
    value = _load(v, v_strides, first, count, D, BLOCK_K, BLOCK_D, True)
    at = first + tl.arange(0, BLOCK_K)
    total_k = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    total_v = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for member in range(group):
        head = key_head * group + member
        from_q = _rows(q, q_strides, query_batch, head, query_origin)
        from_grad = _rows(grad, grad_strides, query_batch, head, query_origin)
        numbers = _numbers(n, head, sequences, bias, slopes, bias_strides, scale, FAST)
        if RIGHT:
            total_k, total_v = _be_attended(
                total_k, total_v, key, value, from_q, from_grad, q_strides, grad_strides, begin, inner, query_count,
                at, count, start, context, numbers, D, BLOCK_D, BLOCK_Q, LEFT, RIGHT, FAST, True,
            )  # fmt: skip
        total_k, total_v = _be_attended(
            total_k, total_v, key, value, from_q, from_grad, q_strides, grad_strides, inner, inner_end, query_count,
            at, count, start, context, numbers, D, BLOCK_D, BLOCK_Q, LEFT, RIGHT, FAST, False,
        )  # fmt: skip
        total_k, total_v = _be_attended(
            total_k, total_v, key, value, from_q, from_grad, q_strides, grad_strides, inner_end, end, query_count,
            at, count, start, context, numbers, D, BLOCK_D, BLOCK_Q, LEFT, RIGHT, FAST, True,
        )  # fmt: skip
    grad_k = _rows(grad_k, grad_k_strides, batch, key_head, origin)
    grad_v = _rows(grad_v, grad_v_strides, batch, key_head, origin)
    _store(grad_k, grad_k_strides, first, count, limit, total_k * scale, D, BLOCK_K, BLOCK_D)
    _store(grad_v, grad_v_strides, first, count, limit, total_v, D, BLOCK_K, BLOCK_D)


@triton.jit(do_not_specialize=_VARYING[:2])
def _add_up(sums, grad_bias, bias_strides, cu_queries, query_lengths, query_rows, sequences, heads):
    """One program: the gradient of the bias of a sequence and a head, from what its queries gave."""
    n = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    batch, origin, count, _ = _extent(n, (cu_queries, query_lengths, query_rows), sequences)
    sums += _row(batch, heads, head, query_rows, origin)
    total = tl.zeros((_SUM,), tl.float32)
    for first in range(0, count, _SUM):
        at = first + tl.arange(0, _SUM)
        total += tl.load(sums + at, mask=at < count, other=0.0)
    tl.store(grad_bias + n.to(tl.int64) * bias_strides[0] + head * bias_strides[1], tl.sum(total))


# Configurations: (queries a block, keys a block, warps, stages), by kernel and by head size rounded up. Chosen from
# what the compiler reports for Ampere and Hopper, so that next to nothing spills from the registers on one of them at
# least. The first stands where nothing may be measured; it fits in the shared memory of small Ampere devices, too.

_HALF: dict[str, dict[int, Choices]] = {
    "_forward": {
        64: ((128, 64, 4, 3), (128, 64, 8, 3), (64, 64, 4, 3), (128, 128, 8, 3)),
        128: ((128, 64, 8, 3), (64, 64, 4, 3), (128, 128, 8, 2), (64, 32, 4, 3)),
        256: ((64, 32, 8, 2), (64, 64, 8, 2), (128, 64, 8, 2), (128, 32, 8, 2)),
    },
    "_forward of few": {
        64: ((16, 64, 4, 3), (16, 128, 4, 2)),
        128: ((16, 64, 4, 3), (16, 128, 4, 2)),
        256: ((16, 32, 4, 2), (16, 64, 4, 2)),
    },
    "_backward_queries": {
        64: ((64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 4, 2)),
        128: ((64, 32, 4, 2), (64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2)),
        256: ((32, 32, 4, 2), (64, 32, 8, 2)),
    },
    "_backward_keys": {
        64: ((32, 64, 4, 2), (64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 2)),
        128: ((32, 64, 4, 2), (64, 64, 8, 2), (32, 128, 8, 2), (64, 128, 8, 2)),
        256: ((32, 32, 8, 2), (16, 64, 8, 2), (32, 64, 8, 2)),
    },
}
_SINGLE: dict[str, dict[int, Choices]] = {  # exact float32 has no tensor cores, and wants small blocks
    "_forward": {
        64: ((32, 32, 4, 2), (64, 32, 8, 2)),
        128: ((32, 16, 4, 2), (16, 16, 4, 1)),
        256: ((16, 16, 4, 1), (32, 16, 4, 2)),
    },
    "_forward of few": dict.fromkeys((64, 128, 256), ((16, 32, 4, 2), (16, 16, 4, 1))),
    "_backward_queries": {
        64: ((32, 32, 8, 1), (32, 16, 4, 2)),
        128: ((16, 16, 4, 1), (32, 16, 4, 2)),
        256: ((16, 16, 4, 1),),
    },
    "_backward_keys": {
        64: ((32, 32, 8, 1), (16, 32, 4, 2)),
        128: ((16, 32, 8, 1), (16, 16, 4, 1)),
        256: ((16, 16, 4, 1),),
    },
}


def _tuned(kernel: Any, shared: dict[str, Any]) -> Any:
    """The kernel with what there is to choose from for these arguments."""
    few = " of few" if kernel is _forward and shared["bucket"] == 0 else ""
    choices = _choices(kernel.__name__ + few, shared["BLOCK_D"], shared["q"].element_size() == 2)
    return tuned(kernel, ("BLOCK_Q", "BLOCK_K"), choices, ("BLOCK_D", "LEFT", "RIGHT", "bucket"))


def _choices(kernel: str, width: int, half: bool) -> Choices:
    if INTERPRETED:  # so small that small inputs are cut, too
        return ((FEW if kernel.endswith("few") else 32, 32, 1, 1),)
    return (_HALF if half else _SINGLE)[kernel][max(64, width)]


# From PyTorch.


def unsupported(inputs: Inputs) -> str:
    """Why these kernels cannot serve such inputs; "" where they can."""
    size = inputs.q.shape[-1]
    if not 0 < size <= LARGEST_HEAD:
        return f"a head size of {size} is not between 1 and {LARGEST_HEAD}"
    return device_problem(inputs.q)


def forward(inputs: Inputs) -> Tensor:
    """As `reference.forward`."""
    q, cu_queries, sequences = inputs.q, inputs.layout.cu_queries, len(inputs.bias)
    output = torch.empty_like(q)
    if output.numel() == 0:
        return output
    splits = _splits(inputs)
    # Pieces are kept in float32 and added in their order.
    pieces = output[None] if splits == 1 else q.new_empty((splits, *q.shape), dtype=torch.float32)
    shared = _shared(inputs)
    with torch.cuda.device_of(q):
        _tuned(_forward, shared)[_grid(cu_queries, q, "BLOCK_Q", sequences, q.shape[1] * splits)](
            out=pieces,
            out_strides=pieces.stride()[1:],
            split_stride=pieces.stride(0),
            heads=q.shape[1],
            splits=splits,
            page_table=None if inputs.layout.page_table is None else inputs.layout.page_table.contiguous(),
            page_size=inputs.k.shape[2],
            **shared,
        )
    return output if splits == 1 else output.copy_(pieces.sum(0))


def backward(grad: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `reference.backward`."""
    q, k, _, bias, _, layout = inputs[:6]
    grad_q, grad_k, grad_v, grad_bias = (torch.empty_like(t) for t in inputs[:4])
    sums = q.new_empty(q.shape[:3], dtype=torch.float32)
    shared = _shared(inputs) | {"grad": grad, "grad_strides": grad.stride()}
    with torch.cuda.device_of(q):
        if q.numel():
            _tuned(_backward_queries, shared)[_grid(layout.cu_queries, q, "BLOCK_Q", len(bias), q.shape[1])](
                grad_q=grad_q,
                grad_q_strides=grad_q.stride(),
                sums=sums,
                heads=q.shape[1],
                **shared,
            )
        if k.numel():
            _tuned(_backward_keys, shared)[_grid(layout.cu_keys, k, "BLOCK_K", len(bias), k.shape[1])](
                grad_k=grad_k,
                grad_k_strides=grad_k.stride(),
                grad_v=grad_v,
                grad_v_strides=grad_v.stride(),
                heads=k.shape[1],
                **shared,
            )
        if bias.numel():
            side = {name: shared[name] for name in ("cu_queries", "query_lengths", "query_rows", "sequences")}
            _add_up[(bias.numel(),)](sums, grad_bias, grad_bias.stride(), heads=q.shape[1], **side)
    return grad_q, grad_k, grad_v, grad_bias


def _shared(inputs: Inputs) -> dict[str, Any]:
    """The arguments that the three kernels have in common."""
    q, k, v, bias, slopes, layout, scale, context = inputs

    def vector(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(q.device).contiguous()

    chunk, left, right = (min(size, FAR) for size in context)
    return {
        "q": q,
        "k": k,
        "v": v,
        "bias": bias,
        "slopes": vector(slopes),
        "q_strides": q.stride(),
        "k_strides": k.stride(),
        "v_strides": v.stride(),
        "bias_strides": bias.stride(),
        "query_rows": q.shape[2],
        "key_rows": _key_rows(inputs),
        **{name: vector(x) for name, x in layout._asdict().items() if name != "page_table"},
        "sequences": len(bias),
        "group": inputs.group,
        "scale": scale,
        "chunk": chunk,
        "left": left,
        "right": right,
        "bucket": _bucket(inputs),
        "D": q.shape[3],
        "BLOCK_D": max(16, triton.next_power_of_2(q.shape[3])),
        "LEFT": left >= 0,
        "RIGHT": right >= 0,
        "FAST": HARDWARE_TANH and q.element_size() == 2 and not INTERPRETED,
    }


def _grid(
    cumulative: Tensor | None, x: Tensor, block: str, sequences: int, heads: int
) -> Callable[[dict[str, Any]], tuple[int]]:
    """One program a slot and head (of a piece of the keys)."""

    def grid(meta: dict[str, Any]) -> tuple[int]:
        if cumulative is None:
            slots = sequences * triton.cdiv(x.shape[2], meta[block])
        else:
            slots = x.shape[2] // meta[block] + sequences + 1
        return (slots * heads,)

    return grid


def _key_rows(inputs: Inputs) -> int:
    """Keys that a row of a padded batch has room for, or all keys of packed sequences."""
    table = inputs.layout.page_table
    return inputs.k.shape[2] * (1 if table is None else table.shape[1])


def _typical(inputs: Inputs) -> tuple[int, int]:
    """Queries and keys of a sequence, on the average of packed ones: all that is known without asking the device."""
    queries, keys, layout, sequences = inputs.q.shape[2], _key_rows(inputs), inputs.layout, len(inputs.bias)
    return (
        queries if layout.cu_queries is None else triton.cdiv(queries, sequences),
        keys if layout.cu_keys is None else triton.cdiv(keys, sequences),
    )


def _bucket(inputs: Inputs) -> int:
    """0 for few queries, as in decoding, and 1, 2, 3 for short, usual and long sequences: tuned apart."""
    queries, keys = _typical(inputs)
    return 0 if queries <= FEW else 1 + (keys > 512) + (keys > 4096)


def _splits(inputs: Inputs) -> int:
    """Into how many pieces to cut the keys, that a few queries keep the device busy with two programs a processor."""
    queries, keys = _typical(inputs)
    if queries > FEW:
        return 1
    wanted = 2 * _multiprocessors(inputs.q.device) // (len(inputs.bias) * inputs.q.shape[1])
    return max(1, min(wanted, keys // (64 if INTERPRETED else 256)))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
