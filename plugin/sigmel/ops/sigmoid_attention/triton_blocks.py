"""Parts of the Triton kernels of sigmoid attention: weights, where sequences lie, and which keys a query sees."""

# mypy: allow-untyped-defs
# mypy has no types for the arguments of Triton kernels.

import triton
import triton.language as tl

from sigmel.ops.triton_common import dot, find, narrow

# Arithmetic.


@triton.jit
def _sigmoid(x, FAST: tl.constexpr):
    """Of x; if FAST of 2 x, by one instruction of limited precision."""
    if FAST:
        return 0.5 * tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1) + 0.5
    else:
        return tl.sigmoid(x)


@triton.jit
def numbers_of(n, head, sequences, bias, slopes, bias_strides, scale, FAST: tl.constexpr):
    """The numbers that make a weight of a product: scale, bias and slope, halved if FAST."""
    half = 0.5 if FAST else 1.0
    bias += n.to(tl.int64) * bias_strides[0] + head * bias_strides[1]
    offset = tl.load(bias, mask=n < sequences, other=0.0).to(tl.float32) * half
    if slopes is None:
        return scale * half, offset, None
    else:
        return scale * half, offset, tl.load(slopes + head).to(tl.float32) * half


@triton.jit
def weights_of(a, b, at_a, at_b, numbers, FAST: tl.constexpr):
    """(A, B) weights of (A, D) and (B, D) at their positions: queries and keys, or keys and queries."""
    scores = dot(a, tl.trans(b), None) * numbers[0] + numbers[1]
    if numbers[2] is not None:
        scores -= numbers[2] * tl.abs(at_a[:, None] - at_b[None, :]).to(tl.float32)
    return _sigmoid(scores, FAST)


# Where things are. A side, the queries or the keys, is (cumulative lengths or None, lengths or None, rows).


@triton.jit
def find_block(slot, side, sequences, BLOCK: tl.constexpr):
    """The sequence of a slot, and which of the sequence's blocks the slot is."""
    if side[0] is None:
        blocks = tl.cdiv(side[2], BLOCK)
        return slot // blocks, slot % blocks
    else:
        return find(slot, side[0], sequences, BLOCK)


@triton.jit
def extent_of(n, side, sequences):
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
def find_queries(slot, queries, sequences, BLOCK: tl.constexpr):
    """The sequence of a slot, where it lies, and the first query of its block: negative if the slot is not needed."""
    n, block = find_block(slot, queries, sequences, BLOCK)
    batch, origin, count, limit = extent_of(n, queries, sequences)
    # Backwards: under a causal mask, the blocks with the most work come first.
    return n, batch, origin, (tl.cdiv(limit, BLOCK) - 1 - block) * BLOCK, count, limit


@triton.jit
def start_of(n, query_start, sequences):
    """Position of the first query of a sequence among its keys."""
    if query_start is None:
        return n * 0
    else:
        return tl.load(query_start + n, mask=n < sequences, other=0).to(tl.int32)


@triton.jit
def pointer_to(x, strides, batch, head, origin):
    """Pointer to the first row of a sequence in x (B, H, T, D)."""
    return x + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1] + origin.to(tl.int64) * strides[2]


@triton.jit
def row_of(batch, heads, head, rows, origin):
    """The first row of a sequence among all of (B, H, T)."""
    return (batch * heads + head).to(tl.int64) * rows + origin


@triton.jit
def _pointers(x, strides, first, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    x += tl.cast(first, tl.int64) * strides[2]
    return x + tl.arange(0, BLOCK)[:, None] * strides[2] + tl.arange(0, BLOCK_D)[None, :] * strides[3]


@triton.jit
def _paged(x, strides, pages, first, limit, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """`_pointers` to rows that lie in pages: `pages` is (the numbers of a sequence's pages, rows a page)."""
    rows = first + tl.arange(0, BLOCK)
    page = tl.load(pages[0] + rows // pages[1], mask=rows < limit, other=0).to(tl.int64)
    x += page[:, None] * strides[0] + (rows % pages[1])[:, None] * strides[2]
    return x + tl.arange(0, BLOCK_D)[None, :] * strides[3]


@triton.jit
def load_block(
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
def store_block(x, strides, first, count, limit, block, D: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write the rows from `first` to `limit`: those of the block up to `count`, then zeros."""
    rows = first + tl.arange(0, BLOCK)[:, None]
    columns = tl.arange(0, BLOCK_D)[None, :]
    block = narrow(tl.where(rows < count, block, 0.0), x.dtype.element_ty)
    tl.store(_pointers(x, strides, first, BLOCK, BLOCK_D), block, mask=(rows < limit) & (columns < D))


# Who sees whom. Both ends of what a query sees rise with its position, so the first and the last query of a block tell
# which blocks of keys all of them see, some, or no query; likewise the first and the last key of a block
# tell which blocks of queries see them. LEFT and RIGHT say whether there is such a limit at all.


@triton.jit
def bounds_of(p, keys, context, LEFT: tl.constexpr, RIGHT: tl.constexpr):
    """The first key that the query at p sees of its `keys` keys, and the end of those that it sees."""
    first = p // context[0] * context[0]
    low = first * 0
    high = first * 0 + keys
    if LEFT:
        low = tl.maximum(first - context[1], 0)
    if RIGHT:
        high = tl.minimum(first + context[0] + context[2], high)
    return low, high


@triton.jit
def within(low, high, at, LEFT: tl.constexpr):
    """Whether keys lie within bounds of queries."""
    return (at >= low) & (at < high) if LEFT else at < high


@triton.jit
def _cut(begin, inner, inner_end, end, BLOCK: tl.constexpr):
    """Rounds to blocks: seen in part from begin to inner, in full from inner to inner_end, then in part up to end."""
    begin = begin // BLOCK * BLOCK
    end = tl.maximum(end, begin)
    inner = tl.minimum(tl.cdiv(inner, BLOCK) * BLOCK, end)
    return begin, inner, tl.maximum(inner_end // BLOCK * BLOCK, inner), end


@triton.jit
def keys_of(
    n, first, count, keys, query_start, sequences, context, LEFT: tl.constexpr, RIGHT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The keys of a block of queries.

    Their place in the batch, the first row there, and how many there are; the positions (Q,) of the queries and the
    keys that each of them sees; and the blocks of keys that the queries see, as `_cut`.
    """
    batch, origin, key_count, _ = extent_of(n, keys, sequences)
    key_count = tl.where(first < count, key_count, 0)
    start = start_of(n, query_start, sequences) + first
    p = start + tl.arange(0, BLOCK_Q)
    seen = bounds_of(p, key_count, context, LEFT, RIGHT)
    last = start + tl.minimum(BLOCK_Q, count - first) - 1
    begin, inner_end = bounds_of(start, key_count, context, LEFT, RIGHT)
    inner, end = bounds_of(last, key_count, context, LEFT, RIGHT)
    return batch, origin, key_count, p, seen, _cut(begin, inner, inner_end, end, BLOCK_K)


@triton.jit
def queries_seeing(first, last, start, queries, context, LEFT: tl.constexpr, RIGHT: tl.constexpr, BLOCK: tl.constexpr):
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
