"""The Triton kernels of routed experts, which cuda.py starts on choices sorted by expert."""

# mypy: allow-untyped-defs
# mypy has no types for the arguments of Triton kernels.

import triton
import triton.language as tl

from sigmel.ops.triton_common import dot, find, narrow

_BAND = tl.constexpr(8)  # blocks of rows that share the weights they read
PART = tl.constexpr(16)  # hidden features whose share of a gate's gradient has a place of its own
_VARYING = ["bucket"]  # from batch to batch: compiled once for all


# Which tile of a product a program computes.


@triton.jit
def _tile(index, rows, columns):
    """Row and column of a tile. Those next to each other share rows and columns, as long as they are in the cache."""
    first = index // (_BAND * columns) * _BAND
    height = tl.minimum(rows - first, _BAND)
    within = index % (_BAND * columns)
    return first + within % height, within // height


@triton.jit
def _place(
    order, bounds, COLUMNS: tl.constexpr, EXPERTS: tl.constexpr, CHOICES: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The expert of a program, the number of its rows, (M,) rows, (M,) choices, (M,) frames, and its block of columns.

    The expert is -1 or EXPERTS for choices of no expert. Rows beyond the number repeat a row that can be read.
    """
    columns = tl.cdiv(COLUMNS, BLOCK_N)
    slot, column = _tile(tl.program_id(0), tl.num_programs(0) // columns, columns)
    group, block = find(slot, bounds, EXPERTS + 1, BLOCK_M)
    first = tl.load(bounds + group) + block * BLOCK_M
    count = tl.minimum(tl.load(bounds + group + 1) - first, BLOCK_M)
    within = tl.arange(0, BLOCK_M)
    rows = (first + tl.where(within < count, within, 0)).to(tl.int64)
    choices = tl.load(order + rows, mask=rows < first + count, other=0)
    return group.to(tl.int64) - 1, count, rows, choices, choices // CHOICES, column


# Arithmetic.


@triton.jit
def _load(pointers, inside, WHOLE: tl.constexpr):
    if WHOLE:  # all of it is inside
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def _product(
    a, rows, weight, second, columns, INNER: tl.constexpr, TO_COLUMN: tl.constexpr, TO_INNER: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """(M, N) products of the `rows` of a (., INNER) and the `columns` of a matrix; and of a second matrix, or zeros.

    The matrix is given by its strides: `weight + TO_COLUMN * column + TO_INNER * inner`.
    """
    inner = tl.arange(0, BLOCK_K)
    a += rows[:, None] * INNER + inner[None, :]
    at = columns[None, :] * TO_COLUMN + inner[:, None] * TO_INNER
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    other = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    WHOLE: tl.constexpr = INNER % BLOCK_K == 0
    for first in range(0, INNER, BLOCK_K):
        inside = inner < INNER - first
        left = _load(a, inside[None, :], WHOLE)
        total = dot(left, _load(weight + at, inside[:, None], WHOLE), total, PRECISION)
        if second is not None:
            other = dot(left, _load(second + at, inside[:, None], WHOLE), other, PRECISION)
        a += BLOCK_K
        at += BLOCK_K * TO_INNER
    return total, other


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    """An activation of `reference.ACTIVATIONS`."""
    if ACTIVATION == "relu":
        return tl.where(x < 0, 0.0, x)  # NaN stays
    elif ACTIVATION == "gelu":
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    else:
        return x * tl.sigmoid(x)


@triton.jit
def _slope(x, ACTIVATION: tl.constexpr):
    """Derivative of `_activate`."""
    if ACTIVATION == "relu":
        return tl.where(x <= 0, 0.0, 1.0)
    elif ACTIVATION == "gelu":
        return 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + 0.3989422804014327 * x * tl.exp(-0.5 * x * x)
    else:
        sigmoid = tl.sigmoid(x)
        return sigmoid * (1 + x * (1 - sigmoid))


# Products over the rows of an expert: one program a block of rows and of columns.


@triton.jit(do_not_specialize=_VARYING)
def up(
    x, w1, b1, before, value, order, bounds, bucket,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ACTIVATION: tl.constexpr,
    EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The first projection of the chosen frames, to `before` (rows, WIDTH) if kept, and its `value` (rows, HIDDEN)."""
    expert, count, rows, _, frames, column = _place(order, bounds, HIDDEN, EXPERTS, CHOICES, BLOCK_M, BLOCK_N)
    if (count <= 0) | (expert < 0) | (expert >= EXPERTS):
        return
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (tl.arange(0, BLOCK_M) < count)[:, None] & (columns < HIDDEN)[None, :]
    from_columns = columns % HIDDEN  # columns beyond are read from somewhere, and not written
    w1 += expert * (WIDTH * SIZE)
    b1 += expert * WIDTH + from_columns
    second = None
    if WIDTH > HIDDEN:
        second = w1 + HIDDEN * SIZE
    total, linear = _product(
        x, frames, w1, second, from_columns, SIZE, SIZE, 1, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K
    )  # fmt: skip
    total += tl.load(b1).to(tl.float32)[None, :]
    result = _activate(total, ACTIVATION)
    if WIDTH > HIDDEN:
        linear += tl.load(b1 + HIDDEN).to(tl.float32)[None, :]
        result *= linear
    if before is not None:
        before += rows[:, None] * WIDTH + columns[None, :]
        tl.store(before, narrow(total, before.dtype.element_ty), mask=inside)
        if WIDTH > HIDDEN:
            tl.store(before + HIDDEN, narrow(linear, before.dtype.element_ty), mask=inside)
    value += rows[:, None] * HIDDEN + columns[None, :]
    tl.store(value, narrow(result, value.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def down(
    a, weight, bias, gates, out, order, bounds, bucket,
    INNER: tl.constexpr, COLUMNS: tl.constexpr, TO_COLUMN: tl.constexpr, TO_INNER: tl.constexpr,
    EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A projection of the rows, to `out` (choices, COLUMNS): the second, with bias and gates, or the gradient of x."""
    expert, count, rows, choices, _, column = _place(order, bounds, COLUMNS, EXPERTS, CHOICES, BLOCK_M, BLOCK_N)
    if count <= 0:
        return
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (tl.arange(0, BLOCK_M) < count)[:, None] & (columns < COLUMNS)[None, :]
    out += choices[:, None] * COLUMNS + columns[None, :]
    if (expert < 0) | (expert >= EXPERTS):
        tl.store(out, tl.zeros((BLOCK_M, BLOCK_N), out.dtype.element_ty), mask=inside)
        return
    from_columns = columns % COLUMNS
    weight += expert * (COLUMNS * INNER)
    total, _ = _product(
        a, rows, weight, None, from_columns, INNER, TO_COLUMN, TO_INNER, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K
    )
    if bias is not None:
        total += tl.load(bias + expert * COLUMNS + from_columns).to(tl.float32)[None, :]
    if gates is not None:
        total *= tl.load(gates + choices).to(tl.float32)[:, None]
    tl.store(out, narrow(total, out.dtype.element_ty), mask=inside)


@triton.jit
def _back_half(
    grad_value, gate, before, grad_before, value, rows, columns, exists,
    WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """Back through the activation; returns the share of these columns in the gradient of each row's gate."""
    inside = exists & (columns < HIDDEN)[None, :]
    at = rows[:, None] * WIDTH + columns[None, :]
    x = tl.load(before + at, mask=inside, other=0.0).to(tl.float32)
    result = _activate(x, ACTIVATION)
    above = grad_value * gate
    if WIDTH > HIDDEN:
        linear = tl.load(before + HIDDEN + at, mask=inside, other=0.0).to(tl.float32)
        grad_linear = narrow(above * result, grad_before.dtype.element_ty)
        tl.store(grad_before + HIDDEN + at, grad_linear, mask=inside)
        above *= linear
        result *= linear
    tl.store(grad_before + at, narrow(above * _slope(x, ACTIVATION), grad_before.dtype.element_ty), mask=inside)
    to_value = value + rows[:, None] * HIDDEN + columns[None, :]
    tl.store(to_value, narrow(result * gate, value.dtype.element_ty), mask=inside)
    return tl.sum(tl.where(inside, grad_value * result, 0.0), 1)


@triton.jit(do_not_specialize=_VARYING)
def back(
    grad, w2, b2, gates, before, grad_before, value, parts, order, bounds, bucket,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ACTIVATION: tl.constexpr,
    EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """From `grad` (frames, SIZE): that of the pre-activations, gated values, and parts of the gates' gradient."""
    expert, count, rows, choices, frames, column = _place(order, bounds, HIDDEN, EXPERTS, CHOICES, BLOCK_M, BLOCK_N)
    if count <= 0:
        return
    exists = (tl.arange(0, BLOCK_M) < count)[:, None]
    # Whatever BLOCK_N is, every part is written: the first part of a program is its sum, the others are zero.
    all_parts: tl.constexpr = (HIDDEN + PART - 1) // PART
    place = tl.arange(0, BLOCK_N // PART)[None, :]
    to_part = column * (BLOCK_N // PART) + place
    parts += choices[:, None] * all_parts + to_part
    is_part = exists & (to_part < all_parts)
    if (expert < 0) | (expert >= EXPERTS):
        tl.store(parts, tl.zeros((BLOCK_M, BLOCK_N // PART), tl.float32), mask=is_part)
        return
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    grad_value, _ = _product(
        grad, frames, w2 + expert * (SIZE * HIDDEN), None, columns % HIDDEN, SIZE, 1, HIDDEN, PRECISION,
        BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    gate = tl.load(gates + choices).to(tl.float32)[:, None]
    # One half after the other: all that follows, of all columns at once, would not fit in the registers.
    halves = tl.permute(tl.reshape(grad_value, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1))
    left, right = tl.split(halves)
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N // 2)
    share = _back_half(left, gate, before, grad_before, value, rows, columns, exists, WIDTH, HIDDEN, ACTIVATION)
    columns += BLOCK_N // 2
    share += _back_half(right, gate, before, grad_before, value, rows, columns, exists, WIDTH, HIDDEN, ACTIVATION)
    if column == 0:  # the share of the second bias
        for first in range(0, SIZE, BLOCK_K):
            inner = first + tl.arange(0, BLOCK_K)
            at = frames[:, None] * SIZE + inner[None, :]
            bias = tl.load(b2 + expert * SIZE + inner, mask=inner < SIZE, other=0.0).to(tl.float32)[None, :]
            share += tl.sum(bias * tl.load(grad + at, mask=(inner < SIZE)[None, :], other=0.0), 1)
    tl.store(parts, tl.where(place == 0, share[:, None], 0.0), mask=is_part)


# Sums over the rows of an expert: one program a tile of its parameters.


@triton.jit(do_not_specialize=_VARYING)
def grad_weight(
    gathered, sorted_rows, out, order, bounds, bucket,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr,
    EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of each expert the product, over its rows, of `gathered` (frames, ROWS) and `sorted_rows` (rows, COLUMNS)."""
    height = tl.cdiv(ROWS, BLOCK_M)
    width = tl.cdiv(COLUMNS, BLOCK_N)
    expert = (tl.program_id(0) // (height * width)).to(tl.int64)
    i, j = _tile(tl.program_id(0) % (height * width), height, width)
    i = i * BLOCK_M + tl.arange(0, BLOCK_M)
    j = j * BLOCK_N + tl.arange(0, BLOCK_N)
    begin = tl.load(bounds + expert + 1)
    end = tl.load(bounds + expert + 2)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(begin, end, BLOCK_K):
        rows = first + tl.arange(0, BLOCK_K)
        frames = tl.load(order + rows, mask=rows < end, other=0) // CHOICES
        left = gathered + (i % ROWS)[:, None] + frames[None, :] * ROWS
        right = sorted_rows + rows.to(tl.int64)[:, None] * COLUMNS + (j % COLUMNS)[None, :]
        left = tl.load(left, mask=rows[None, :] < end, other=0.0)
        right = tl.load(right, mask=rows[:, None] < end, other=0.0)
        total = dot(left, right, total, PRECISION)
    out += expert * (ROWS * COLUMNS)
    out += i[:, None] + j[None, :] * ROWS if TRANSPOSED else i[:, None] * COLUMNS + j[None, :]
    tl.store(out, narrow(total, out.dtype.element_ty), mask=(i < ROWS)[:, None] & (j < COLUMNS)[None, :])


@triton.jit(do_not_specialize=_VARYING)
def grad_bias(
    above, gates, out, order, bounds, bucket,
    COLUMNS: tl.constexpr, EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Of each expert the sum of its rows in `above` (rows, COLUMNS); with gates, of (frames, COLUMNS), weighted."""
    width = tl.cdiv(COLUMNS, BLOCK_N)
    expert = (tl.program_id(0) // width).to(tl.int64)
    columns = tl.program_id(0) % width * BLOCK_N + tl.arange(0, BLOCK_N)
    end = tl.load(bounds + expert + 2)
    total = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    for first in range(tl.load(bounds + expert + 1), end, BLOCK_K):
        rows = (first + tl.arange(0, BLOCK_K)).to(tl.int64)
        weight = 1.0
        if gates is not None:
            choices = tl.load(order + rows, mask=rows < end, other=0)
            weight = tl.load(gates + choices, mask=rows < end, other=0.0).to(tl.float32)[:, None]
            from_rows = choices // CHOICES
        else:
            from_rows = rows
        inside = (rows < end)[:, None] & (columns < COLUMNS)[None, :]
        total += weight * tl.load(above + from_rows[:, None] * COLUMNS + columns[None, :], mask=inside, other=0.0)
    total = narrow(tl.sum(total, 0), out.dtype.element_ty)
    tl.store(out + expert * COLUMNS + columns, total, mask=columns < COLUMNS)
