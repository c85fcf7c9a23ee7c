"""What the Triton kernels of the ops have in common: arithmetic, groups of rows, tuning, and where kernels run."""

# mypy: allow-untyped-defs
# mypy has no types for the arguments of Triton kernels.

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
_INTERPRETED = tl.constexpr(INTERPRETED)
_SEARCH = tl.constexpr(128)  # groups looked at at once


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr = "ieee"):
    """`total` and the product of a and b."""
    if _INTERPRETED:  # numpy has no bfloat16
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """float32 to `dtype`, rounded to nearest; the interpreter would truncate to bfloat16."""
    if _INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        x = tl.where(x == x, (bits >> 16 << 16).to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@triton.jit
def find(slot, bounds, last, BLOCK: tl.constexpr):
    """The group of a slot, and which block of that group's rows the slot is, if the group has as many.

    Groups 0 to `last` lie one after the other, group n from row `bounds[n]` on, the first from row 0. Group n takes
    the slots from `bounds[n] // BLOCK + n` on: enough for its blocks wherever they begin, and at most
    `rows // BLOCK + last + 1` in all. So only the device has to know how many rows a group has.
    """
    n = slot * 0 - 1
    for first in range(0, last + 1, _SEARCH):
        candidates = first + tl.arange(0, _SEARCH)
        rows = tl.load(bounds + candidates, mask=candidates <= last, other=0).to(tl.int32)
        n += tl.sum(((candidates <= last) & (rows // BLOCK + candidates <= slot)).to(tl.int32))
    return n, slot - tl.load(bounds + n).to(tl.int32) // BLOCK - n


Choices = tuple[tuple[int, ...], ...]


def tuned(kernel: Any, blocks: tuple[str, ...], choices: Choices, key: tuple[str, ...]) -> Any:
    """The kernel with the fastest of some configurations, or the first where nothing may be measured.

    Args:
        kernel: the Triton kernel to tune.
        blocks: names of the kernel's block sizes.
        choices: configurations, each a size for every block, then warps and stages.
        key: names of the arguments whose values are measured apart, as types of tensors always are.
    """
    return _tuner(kernel, blocks, choices if may_measure() else choices[:1], key)


def may_measure() -> bool:
    """Whether configurations may be timed: not where two runs of a program must agree."""
    return not torch.are_deterministic_algorithms_enabled()


@functools.cache
def _tuner(kernel: Any, blocks: tuple[str, ...], choices: Choices, key: tuple[str, ...]) -> Any:
    configs = [
        triton.Config(dict(zip(blocks, sizes, strict=True)), num_warps=warps, num_stages=stages)
        for *sizes, warps, stages in choices
    ]
    return triton.autotune(configs, list(key), cache_results=True)(kernel)


def device_problem(x: Tensor) -> str:
    """Why our kernels cannot run on the device of `x` and in its type; "" where they can."""
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{x.dtype} has no kernel"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 5):
        return f"Triton {triton.__version__} is older than 3.5"
    if INTERPRETED:
        return ""
    if x.device.type != "cuda" or torch.version.hip is not None:
        return "the kernels are written for NVIDIA's CUDA"
    if torch.cuda.get_device_capability(x.device) < (8, 0):
        return "the kernels need an NVIDIA GPU of the Ampere generation or later"
    return ""
