"""Triton kernels of the feed-forward of routed experts for CUDA: what reference.py defines, as a few grouped products.

Choices are sorted by expert, so that those of an expert are consecutive rows. Where they begin only the device knows:
a program finds its expert and its block of rows there, and as many are started as there could be blocks. So nothing
waits for the device, and a call can be captured in a CUDA graph. No frame is copied: the first product gathers the
frames it reads, the second scatters what it writes, once for each choice, and the choices of a frame are added in
their order. No kernel uses atomics: as in sigmoid attention, a call made twice gives the same bits.

In the backward pass, `back` goes through the second projection and the activation, and leaves two matrices of rows:
the gradient of the pre-activations, and the activated values times their gate. Every other gradient is a product or a
sum of one of these matrices. A gate's gradient is a sum over the hidden features: each program gives a part.

A choice of -1 is of no expert: its frame is not read, its output and its gradients are zero. So is a choice beyond the
last expert, since to raise an error would be to wait for the device.

What has to be measured on a device before anything is claimed, with `benchmarks/expert_mlp.py --device cuda`: whether
`F.grouped_mm` (bfloat16, rows of a multiple of 16 bytes) between a gather and a scatter is faster than the products
here, and whether torch's sort, some ten small kernels, takes a share of a call that a sort of our own would save.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from sigmel.ops.experts import reference
from sigmel.ops.experts import triton_kernels as kernels
from sigmel.ops.experts.reference import GATED, Inputs
from sigmel.ops.triton_common import INTERPRETED, Choices, device_problem, tuned

MOST_EXPERTS = torch.iinfo(torch.int16).max - 1  # shorter integers are sorted in fewer passes

# Configurations: (block sizes, in the order of the kernel's arguments, warps, stages). Chosen from what the compiler
# reports for Ampere and Hopper. The first is taken where nothing may be measured; it fits in the shared memory of
# small Ampere devices too. Rows are blocked by how many an expert has on the average: FEW at most, more than MANY, or
# some in between.

FEW, MANY = 32, 128
_BUCKETS = ("few", "some", "many")
_HALF: dict[str, Choices] = {
    "few": ((16, 64, 128, 4, 3), (16, 128, 64, 4, 4), (32, 64, 128, 4, 3)),
    "some": ((64, 64, 64, 4, 3), (64, 128, 64, 4, 3), (32, 128, 64, 4, 3)),
    "many": ((128, 128, 64, 8, 3), (128, 128, 32, 4, 3), (64, 256, 64, 8, 3), (128, 256, 64, 8, 3)),
    "grad_weight": ((128, 128, 64, 8, 3), (128, 128, 32, 4, 3), (64, 128, 64, 4, 3), (128, 256, 64, 8, 3)),
    "grad_bias": ((64, 64, 4, 1),),
}
_SINGLE: dict[str, Choices] = {
    "few": ((16, 64, 32, 4, 3), (32, 64, 32, 4, 3)),
    "some": ((32, 64, 32, 4, 3), (64, 64, 16, 8, 2)),
    "many": ((64, 64, 16, 8, 2), (128, 64, 16, 8, 2), (128, 128, 32, 8, 3)),
    "grad_weight": ((64, 64, 16, 8, 2), (128, 64, 16, 8, 2), (128, 128, 32, 8, 3)),
    "grad_bias": ((64, 64, 4, 1),),
}
_KEY = ("bucket", "SIZE", "WIDTH", "HIDDEN", "INNER", "ROWS", "COLUMNS", "EXPERTS", "PRECISION")


def _choices(kernel: str, bucket: str, half: bool, gated: bool) -> Choices:
    """The configurations a kernel may be compiled with."""
    if INTERPRETED:  # so small that small inputs are cut too, and of different sizes
        return ((32, 16, 1, 1),) if kernel == "grad_bias" else ((16, 32, 16, 1, 1),)
    table = _HALF if half else _SINGLE
    choices = table.get(kernel, table[bucket])
    if kernel == "up" and gated:  # two products at once: half of the columns of each
        return tuple((rows, columns // 2, *rest) for rows, columns, *rest in choices)
    if kernel == "back":  # keeps more in registers beside its product
        return tuple(choice for choice in choices if choice[0] * choice[1] <= 2048 * choice[3])
    return choices


def unsupported(inputs: Inputs) -> str:
    """Why these kernels cannot serve such inputs; "" where they can."""
    if not 0 < len(inputs.w2) <= MOST_EXPERTS:
        return f"{len(inputs.w2)} experts are not between 1 and {MOST_EXPERTS}"
    if 0 in inputs.w2.shape:
        return f"w2 of shape {tuple(inputs.w2.shape)} is empty"
    return device_problem(inputs.x)


class _Call:
    """The choices of a call, sorted by expert, and the arguments of all its kernels.

    Attributes:
        rows: how many choices there are.
        shared: arguments of every kernel. `order` (rows,) has the choice (frame * K + k) of each sorted row. `bounds`
            (E + 3,) tells where groups begin: choices of -1, of each expert, and of experts beyond the last; and where
            the last group ends.
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
    if hasattr(matmul, "fp32_precision"):  # from torch 2.9 on; to ask for the other may then be an error
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
    call.run(kernels.up, None, hidden, x=x, w1=w1, b1=b1, before=before, value=value, **sizes)
    second = {"INNER": hidden, "COLUMNS": size, "TO_COLUMN": hidden, "TO_INNER": 1}
    call.run(kernels.down, None, size, a=value, weight=w2, bias=b2, gates=gates, out=out, **second)
    return _combine(out, inputs), x.new_empty(0) if before is None else before


def backward(grad: Tensor, before: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    inputs, call = _contiguous(inputs), _Call(inputs)
    x, _, gates, w1, b1, w2, b2, _ = inputs
    sizes = _sizes(inputs)
    size, width, hidden = sizes["SIZE"], sizes["WIDTH"], sizes["HIDDEN"]
    grad, grad_before = grad.contiguous(), torch.empty_like(before)
    value, out = x.new_empty(call.rows, hidden), x.new_empty(call.rows, size)
    parts = x.new_empty(call.rows, triton.cdiv(hidden, kernels.PART.value), dtype=torch.float32)
    grad_w1, grad_b1, grad_w2, grad_b2 = map(torch.empty_like, (w1, b1, w2, b2))
    given = {"grad": grad, "w2": w2, "b2": b2, "gates": gates, "before": before}
    call.run(kernels.back, None, hidden, **given, grad_before=grad_before, value=value, parts=parts, **sizes)
    first = {"INNER": width, "COLUMNS": size, "TO_COLUMN": 1, "TO_INNER": size}
    call.run(kernels.down, None, size, a=grad_before, weight=w1, bias=None, gates=None, out=out, **first)
    first = {"gathered": x, "sorted_rows": grad_before, "out": grad_w1, "TRANSPOSED": True}
    call.run(kernels.grad_weight, size, width, **first, ROWS=size, COLUMNS=width)
    second = {"gathered": grad, "sorted_rows": value, "out": grad_w2, "TRANSPOSED": False}
    call.run(kernels.grad_weight, size, hidden, **second, ROWS=size, COLUMNS=hidden)
    call.run(kernels.grad_bias, 1, width, above=grad_before, gates=None, out=grad_b1, COLUMNS=width)
    call.run(kernels.grad_bias, 1, size, above=grad, gates=gates, out=grad_b2, COLUMNS=size)
    grad_gates = parts.sum(-1).view(gates.shape).to(gates.dtype)
    return _combine(out, inputs), grad_gates, grad_w1, grad_b1, grad_w2, grad_b2


def _contiguous(inputs: Inputs) -> Inputs:
    return Inputs._make((*(tensor.contiguous() for tensor in inputs[:7]), inputs.activation))


def _sizes(inputs: Inputs) -> dict[str, Any]:
    """Arguments of the kernels that compute the activation."""
    _, size, hidden = inputs.w2.shape
    activation = GATED.get(inputs.activation, inputs.activation)
    return {"SIZE": size, "WIDTH": inputs.w1.shape[1], "HIDDEN": hidden, "ACTIVATION": activation}


def _combine(out: Tensor, inputs: Inputs) -> Tensor:
    """(N, D) from (N * K, D): the sum over the choices of a frame."""
    out = out.view(*inputs.experts.shape, out.shape[1])
    return out.squeeze(1) if out.shape[1] == 1 else out.sum(1)
