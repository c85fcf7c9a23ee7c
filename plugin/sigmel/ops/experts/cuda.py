"""Triton kernels of the feed-forward of routed experts for CUDA: what reference.py defines, as a few grouped products.

Choices are sorted by expert, so that those of an expert are consecutive rows. Where they begin only the device knows:
a program finds its expert and its block of rows there, and as many are started as there could be blocks. So nothing
waits for the device, and a call can be captured in a CUDA graph. No frame is copied: the first product gathers the
frames it reads, the second scatters what it writes, once for each choice, and the choices of a frame are added in
their order. No kernel uses atomics: as in sigmoid attention, a call made twice gives the same bits.

Backward, `_back` goes through the second projection and the activation, and leaves two matrices of rows: the gradient
of the pre-activations, and the activated values times their gate. Every other gradient is a product or a sum of one of
them. A gate's gradient is a sum over the hidden features, to which each program gives a part of its own.

A choice of -1 is of no expert: its frame is not looked at, its output and its gradients are zero. So is, here, one of
an expert that is not there: to name it would be to wait for the device.

What has to be measured on a device before anything is claimed, with `benchmarks/expert_mlp.py --device cuda`: whether
`F.grouped_mm` (bfloat16, rows of a multiple of 16 bytes) between a gather and a scatter is faster than the products
here, and whether torch's sort, some ten small kernels, takes a share of a call that a sort of our own would save.
"""

# mypy: allow-untyped-defs
# The kernels: what Triton takes has no types that mypy knows.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sigmel.ops.experts import reference
from sigmel.ops.experts.reference import GATED, Inputs
from sigmel.ops.triton_common import INTERPRETED, Choices, device_problem, dot, find, narrow, tuned

MOST_EXPERTS = torch.iinfo(torch.int16).max - 1  # the shorter what is sorted, the fewer times it is gone through

_BAND = tl.constexpr(8)  # blocks of rows that share what they read of the weights
_PART = tl.constexpr(16)  # hidden features whose share of a gate's gradient has a place of its own
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

    The expert is -1 or EXPERTS for choices of none. Rows beyond the number repeat one that can be read.
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
    """(M, N) products of the `rows` of a (., INNER) and the `columns` of a matrix; another of a second one, or zeros.

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
    """As `reference.ACTIVATIONS`."""
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
def _up(
    x, w1, b1, before, value, order, bounds, bucket,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ACTIVATION: tl.constexpr,
    EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The first projection of the frames chosen, `before` (rows, WIDTH), if it is kept, and `value` (rows, HIDDEN)."""
    expert, count, rows, _, frames, column = _place(order, bounds, HIDDEN, EXPERTS, CHOICES, BLOCK_M, BLOCK_N)
    if (count <= 0) | (expert < 0) | (expert >= EXPERTS):
        return
    columns = column * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (tl.arange(0, BLOCK_M) < count)[:, None] & (columns < HIDDEN)[None, :]
    from_columns = columns % HIDDEN  # what is beyond is read from somewhere, and not written
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
def _down(
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
    """Back through the activation; returns what these columns give to the gradient of each row's gate."""
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
def _back(
    grad, w2, b2, gates, before, grad_before, value, parts, order, bounds, bucket,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, ACTIVATION: tl.constexpr,
    EXPERTS: tl.constexpr, CHOICES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """From `grad` (frames, SIZE) that of the pre-activations, gated values, and parts of the gates' gradient."""
    expert, count, rows, choices, frames, column = _place(order, bounds, HIDDEN, EXPERTS, CHOICES, BLOCK_M, BLOCK_N)
    if count <= 0:
        return
    exists = (tl.arange(0, BLOCK_M) < count)[:, None]
    # Whatever BLOCK_N is, every part is written: the first of a program's is its sum, the others are zero.
    all_parts: tl.constexpr = (HIDDEN + _PART - 1) // _PART
    place = tl.arange(0, BLOCK_N // _PART)[None, :]
    to_part = column * (BLOCK_N // _PART) + place
    parts += choices[:, None] * all_parts + to_part
    is_part = exists & (to_part < all_parts)
    if (expert < 0) | (expert >= EXPERTS):
        tl.store(parts, tl.zeros((BLOCK_M, BLOCK_N // _PART), tl.float32), mask=is_part)
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
    if column == 0:  # what the second bias gives
        for first in range(0, SIZE, BLOCK_K):
            inner = first + tl.arange(0, BLOCK_K)
            at = frames[:, None] * SIZE + inner[None, :]
            bias = tl.load(b2 + expert * SIZE + inner, mask=inner < SIZE, other=0.0).to(tl.float32)[None, :]
            share += tl.sum(bias * tl.load(grad + at, mask=(inner < SIZE)[None, :], other=0.0), 1)
    tl.store(parts, tl.where(place == 0, share[:, None], 0.0), mask=is_part)


# Sums over the rows of an expert: one program a tile of its parameters.


@triton.jit(do_not_specialize=_VARYING)
def _grad_weight(
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
def _grad_bias(
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


# Configurations: (block sizes, in the order of the kernel's arguments, warps, stages). Chosen from what the compiler
# reports for Ampere and Hopper. The first stands where nothing may be measured; it fits in the shared memory of small
# Ampere devices, too. Rows are blocked by how many an expert has on the average: FEW at most, more than MANY, or some.

FEW, MANY = 32, 128
_BUCKETS = ("few", "some", "many")
_HALF: dict[str, Choices] = {
    "few": ((16, 64, 128, 4, 3), (16, 128, 64, 4, 4), (32, 64, 128, 4, 3)),
    "some": ((64, 64, 64, 4, 3), (64, 128, 64, 4, 3), (32, 128, 64, 4, 3)),
    "many": ((128, 128, 64, 8, 3), (128, 128, 32, 4, 3), (64, 256, 64, 8, 3), (128, 256, 64, 8, 3)),
    "_grad_weight": ((128, 128, 64, 8, 3), (128, 128, 32, 4, 3), (64, 128, 64, 4, 3), (128, 256, 64, 8, 3)),
    "_grad_bias": ((64, 64, 4, 1),),
}
_SINGLE: dict[str, Choices] = {
    "few": ((16, 64, 32, 4, 3), (32, 64, 32, 4, 3)),
    "some": ((32, 64, 32, 4, 3), (64, 64, 16, 8, 2)),
    "many": ((64, 64, 16, 8, 2), (128, 64, 16, 8, 2), (128, 128, 32, 8, 3)),
    "_grad_weight": ((64, 64, 16, 8, 2), (128, 64, 16, 8, 2), (128, 128, 32, 8, 3)),
    "_grad_bias": ((64, 64, 4, 1),),
}
_KEY = ("bucket", "SIZE", "WIDTH", "HIDDEN", "INNER", "ROWS", "COLUMNS", "EXPERTS", "PRECISION")


def _choices(kernel: str, bucket: str, half: bool, gated: bool) -> Choices:
    """What the kernel may be compiled with."""
    if INTERPRETED:  # so small that small inputs are cut, too, and of different sizes
        return ((32, 16, 1, 1),) if kernel == "_grad_bias" else ((16, 32, 16, 1, 1),)
    table = _HALF if half else _SINGLE
    choices = table.get(kernel, table[bucket])
    if kernel == "_up" and gated:  # two products at once: half of the columns of each
        return tuple((rows, columns // 2, *rest) for rows, columns, *rest in choices)
    if kernel == "_back":  # keeps more in registers beside its product
        return tuple(choice for choice in choices if choice[0] * choice[1] <= 2048 * choice[3])
    return choices


# From PyTorch.


def unsupported(inputs: Inputs) -> str:
    """Why these kernels cannot serve such inputs; "" where they can."""
    if not 0 < len(inputs.w2) <= MOST_EXPERTS:
        return f"{len(inputs.w2)} experts are not between 1 and {MOST_EXPERTS}"
    if 0 in inputs.w2.shape:
        return f"w2 of shape {tuple(inputs.w2.shape)} is empty"
    return device_problem(inputs.x)


class _Call:
    """The choices of a call, sorted by expert, and what all of its kernels are given.

    Attributes:
        rows: how many choices there are.
        shared: arguments of every kernel. `order` (rows,) has the choice (frame * K + k) of each sorted row. `bounds`
            (E + 3,) tells where groups begin: those of -1, of each expert, and of experts that are not there; and
            where the last one ends.
    """

    def __init__(self, inputs: Inputs):
        experts, x, count = inputs.experts, inputs.x, len(inputs.w1)
        keys, order = experts.flatten().clamp(-1, count).to(torch.int16).sort(stable=True)
        groups = torch.arange(-1, count + 2, dtype=keys.dtype, device=keys.device)
        self.rows, self.experts, self.half = len(order), count, x.element_size() == 2
        self.gated = inputs.activation in GATED
        self.bucket = (self.rows > FEW * count) + (self.rows > MANY * count)
        self.shared = {
            "order": order,
            "bounds": torch.searchsorted(keys, groups, out_int32=True),
            "bucket": self.bucket,
            "EXPERTS": count,
            "CHOICES": max(1, experts.shape[1]),
            "PRECISION": "tf32" if x.dtype == torch.float32 and _tf32_allowed() else "ieee",
        }

    def run(self, kernel: Any, height: int | None, width: int, **arguments: Any) -> None:
        """Start a program for each tile of each expert's (height, width); without a height, of (rows, width)."""

        def grid(meta: dict[str, Any]) -> tuple[int]:
            columns = triton.cdiv(width, meta["BLOCK_N"])
            if height is None:  # see `find`
                return ((self.rows // meta["BLOCK_M"] + self.experts + 2) * columns,)
            return (self.experts * triton.cdiv(height, meta.get("BLOCK_M", 1)) * columns,)

        blocks = tuple(name for name in kernel.arg_names if name.startswith("BLOCK"))
        choices = _choices(kernel.__name__, _BUCKETS[self.bucket], self.half, self.gated)
        tuned(kernel, blocks, choices, _KEY)[grid](**arguments, **self.shared)


def _tf32_allowed() -> bool:
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # from torch 2.9 on; asking for the other may then be an error
        return matmul.fp32_precision == "tf32"
    return matmul.allow_tf32


def forward(inputs: Inputs, keep: bool) -> tuple[Tensor, Tensor]:
    """See `reference.forward`."""
    inputs, call = _contiguous(inputs), _Call(inputs)
    x, _, gates, w1, b1, w2, b2, _ = inputs
    sizes = _sizes(inputs)
    size, hidden = sizes["SIZE"], sizes["HIDDEN"]
    before = reference.kept(inputs) if keep else None
    value, out = x.new_empty(call.rows, hidden), x.new_empty(call.rows, size)
    with torch.cuda.device_of(x):
        call.run(_up, None, hidden, x=x, w1=w1, b1=b1, before=before, value=value, **sizes)
        second = {"INNER": hidden, "COLUMNS": size, "TO_COLUMN": hidden, "TO_INNER": 1}
        call.run(_down, None, size, a=value, weight=w2, bias=b2, gates=gates, out=out, **second)
    return _combine(out, inputs), x.new_empty(0) if before is None else before


def backward(grad: Tensor, before: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    inputs, call = _contiguous(inputs), _Call(inputs)
    x, _, gates, w1, b1, w2, b2, _ = inputs
    sizes = _sizes(inputs)
    size, width, hidden = sizes["SIZE"], sizes["WIDTH"], sizes["HIDDEN"]
    grad, grad_before = grad.contiguous(), torch.empty_like(before)
    value, out = x.new_empty(call.rows, hidden), x.new_empty(call.rows, size)
    parts = x.new_empty(call.rows, triton.cdiv(hidden, _PART.value), dtype=torch.float32)
    grad_w1, grad_b1, grad_w2, grad_b2 = map(torch.empty_like, (w1, b1, w2, b2))
    with torch.cuda.device_of(x):
        given = {"grad": grad, "w2": w2, "b2": b2, "gates": gates, "before": before}
        call.run(_back, None, hidden, **given, grad_before=grad_before, value=value, parts=parts, **sizes)
        first = {"INNER": width, "COLUMNS": size, "TO_COLUMN": 1, "TO_INNER": size}
        call.run(_down, None, size, a=grad_before, weight=w1, bias=None, gates=None, out=out, **first)
        first = {"gathered": x, "sorted_rows": grad_before, "out": grad_w1, "TRANSPOSED": True}
        call.run(_grad_weight, size, width, **first, ROWS=size, COLUMNS=width)
        second = {"gathered": grad, "sorted_rows": value, "out": grad_w2, "TRANSPOSED": False}
        call.run(_grad_weight, size, hidden, **second, ROWS=size, COLUMNS=hidden)
        call.run(_grad_bias, 1, width, above=grad_before, gates=None, out=grad_b1, COLUMNS=width)
        call.run(_grad_bias, 1, size, above=grad, gates=gates, out=grad_b2, COLUMNS=size)
    grad_gates = parts.sum(-1).view(gates.shape).to(gates.dtype)
    return _combine(out, inputs), grad_gates, grad_w1, grad_b1, grad_w2, grad_b2


def _contiguous(inputs: Inputs) -> Inputs:
    return Inputs._make((*(tensor.contiguous() for tensor in inputs[:7]), inputs.activation))


def _sizes(inputs: Inputs) -> dict[str, Any]:
    """Arguments of the kernels that know of the activation."""
    _, size, hidden = inputs.w2.shape
    activation = GATED.get(inputs.activation, inputs.activation)
    return {"SIZE": size, "WIDTH": inputs.w1.shape[1], "HIDDEN": hidden, "ACTIVATION": activation}


def _combine(out: Tensor, inputs: Inputs) -> Tensor:
    """(N, D) from (N * K, D): the sum over the choices of a frame."""
    out = out.view(*inputs.experts.shape, out.shape[1])
    return out.squeeze(1) if out.shape[1] == 1 else out.sum(1)
