"""Triton kernels of sigmoid attention for CUDA: what reference.py defines, without the matrix of weights.

A sigmoid needs neither the greatest score of a row nor the sum of its weights. So the forward pass is one loop over
the keys that keeps nothing but the output, the keys may be cut in pieces whose outputs are just added, and the
backward pass computes the weights again from q and k alone: `dS = P (1 - P) dP`. No kernel uses atomics: a call made
twice gives the same bits, once the tuner has chosen a configuration. Under `torch.use_deterministic_algorithms` the
tuner measures nothing and takes the first, so that two runs of a program agree too.

Padded and packed sequences go through the same kernels. A program is given a slot: a sequence, and a block of its
queries or keys. Of a padded batch, slots are counted. Of packed sequences, whose lengths only the device knows, the
kernel finds them (see `find`), so nothing waits for the device. One more sequence, after the last, has no queries and
no keys; it writes zeros where the cumulative lengths end early.
"""

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from sigmel.ops.sigmoid_attention import triton_kernels as kernels
from sigmel.ops.sigmoid_attention.reference import Inputs
from sigmel.ops.triton_common import INTERPRETED, Choices, device_problem, tuned

LARGEST_HEAD = 256
FEW = 16  # queries, at most, whose keys are cut in pieces for want of other work
FAR = 2**29  # keys: as good as infinitely many, and twice that is still an int32

# Half precision may use an instruction of the device. Where weights are near 1 / n its error may be too large for the
# authors' acceptance rule: the instruction stays off until test_weights_near_one_over_n passes with it on a device.
HARDWARE_TANH = False

# Configurations: (queries a block, keys a block, warps, stages), by kernel and by head size rounded up. Chosen from
# what the compiler reports for Ampere and Hopper, so that next to nothing spills from the registers on one of them at
# least. The first is taken where nothing may be measured; it fits in the shared memory of small Ampere devices too.

_HALF: dict[str, dict[int, Choices]] = {
    "forward": {
        64: ((128, 64, 4, 3), (128, 64, 8, 3), (64, 64, 4, 3), (128, 128, 8, 3)),
        128: ((128, 64, 8, 3), (64, 64, 4, 3), (128, 128, 8, 2), (64, 32, 4, 3)),
        256: ((64, 32, 8, 2), (64, 64, 8, 2), (128, 64, 8, 2), (128, 32, 8, 2)),
    },
    "forward of few": {
        64: ((16, 64, 4, 3), (16, 128, 4, 2)),
        128: ((16, 64, 4, 3), (16, 128, 4, 2)),
        256: ((16, 32, 4, 2), (16, 64, 4, 2)),
    },
    "backward_queries": {
        64: ((64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 4, 2)),
        128: ((64, 32, 4, 2), (64, 64, 4, 2), (128, 64, 8, 2), (128, 32, 8, 2)),
        256: ((32, 32, 4, 2), (64, 32, 8, 2)),
    },
    "backward_keys": {
        64: ((32, 64, 4, 2), (64, 64, 4, 2), (64, 128, 8, 2), (32, 128, 8, 2)),
        128: ((32, 64, 4, 2), (64, 64, 8, 2), (32, 128, 8, 2), (64, 128, 8, 2)),
        256: ((32, 32, 8, 2), (16, 64, 8, 2), (32, 64, 8, 2)),
    },
}
_SINGLE: dict[str, dict[int, Choices]] = {  # exact float32 has no tensor cores, and wants small blocks
    "forward": {
        64: ((32, 32, 4, 2), (64, 32, 8, 2)),
        128: ((32, 16, 4, 2), (16, 16, 4, 1)),
        256: ((16, 16, 4, 1), (32, 16, 4, 2)),
    },
    "forward of few": dict.fromkeys((64, 128, 256), ((16, 32, 4, 2), (16, 16, 4, 1))),
    "backward_queries": {
        64: ((32, 32, 8, 1), (32, 16, 4, 2)),
        128: ((16, 16, 4, 1), (32, 16, 4, 2)),
        256: ((16, 16, 4, 1),),
    },
    "backward_keys": {
        64: ((32, 32, 8, 1), (16, 32, 4, 2)),
        128: ((16, 32, 8, 1), (16, 16, 4, 1)),
        256: ((16, 16, 4, 1),),
    },
}


def _choices(kernel: str, width: int, half: bool) -> Choices:
    if INTERPRETED:  # so small that small inputs are cut too
        return ((FEW if kernel.endswith("few") else 32, 32, 1, 1),)
    return (_HALF if half else _SINGLE)[kernel][max(64, width)]


def unsupported(inputs: Inputs) -> str:
    """Why these kernels cannot serve such inputs; "" where they can."""
    size = inputs.q.shape[-1]
    if not 0 < size <= LARGEST_HEAD:
        return f"a head size of {size} is not between 1 and {LARGEST_HEAD}"
    return device_problem(inputs.q)


def forward(inputs: Inputs) -> Tensor:
    """See `reference.forward`."""
    q, table = inputs.q, inputs.layout.page_table
    output = torch.empty_like(q)
    splits = _splits(inputs) if q.numel() else 1
    # Pieces are kept in float32 and added in their order.
    pieces = output[None] if splits == 1 else q.new_empty((splits, *q.shape), dtype=torch.float32)
    _run(
        kernels.forward,
        "q",
        _shared(inputs),
        out=pieces,
        out_strides=pieces.stride()[1:],
        split_stride=pieces.stride(0),
        splits=splits,
        page_table=None if table is None else table.contiguous(),
        page_size=inputs.k.shape[2],
    )
    return output if splits == 1 else output.copy_(pieces.sum(0))


def backward(grad: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference.backward`."""
    q, bias = inputs.q, inputs.bias
    grad_q, grad_k, grad_v, grad_bias = (torch.empty_like(t) for t in inputs[:4])
    sums = q.new_empty(q.shape[:3], dtype=torch.float32)
    shared = _shared(inputs) | {"grad": grad, "grad_strides": grad.stride()}
    _run(kernels.backward_queries, "q", shared, grad_q=grad_q, grad_q_strides=grad_q.stride(), sums=sums)
    strides = {"grad_k_strides": grad_k.stride(), "grad_v_strides": grad_v.stride()}
    _run(kernels.backward_keys, "k", shared, grad_k=grad_k, grad_v=grad_v, **strides)
    if bias.numel():
        side = {name: shared[name] for name in ("cu_queries", "query_lengths", "query_rows", "sequences")}
        kernels.add_up[(bias.numel(),)](sums, grad_bias, grad_bias.stride(), heads=q.shape[1], **side)
    return grad_q, grad_k, grad_v, grad_bias


def _run(kernel: Any, side: str, shared: dict[str, Any], **arguments: Any) -> None:
    """Start a program for each slot and head of a side, "q" or "k", and each piece of the keys."""
    x, cumulative = shared[side], shared["cu_queries" if side == "q" else "cu_keys"]
    heads, block = x.shape[1], f"BLOCK_{side.upper()}"
    if not x.numel():
        return

    def grid(meta: dict[str, Any]) -> tuple[int]:
        if cumulative is None:
            slots = shared["sequences"] * triton.cdiv(x.shape[2], meta[block])
        else:
            slots = x.shape[2] // meta[block] + shared["sequences"] + 1
        return (slots * heads * arguments.get("splits", 1),)

    few = " of few" if kernel is kernels.forward and shared["bucket"] == 0 else ""
    choices = _choices(kernel.__name__ + few, shared["BLOCK_D"], x.element_size() == 2)
    best = tuned(kernel, ("BLOCK_Q", "BLOCK_K"), choices, ("BLOCK_D", "LEFT", "RIGHT", "bucket"))
    best[grid](heads=heads, **arguments, **shared)


def _shared(inputs: Inputs) -> dict[str, Any]:
    """The arguments that the kernels have in common."""
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


def _key_rows(inputs: Inputs) -> int:
    """Keys that a row of a padded batch has room for, or all keys of packed sequences."""
    table = inputs.layout.page_table
    return inputs.k.shape[2] * (1 if table is None else table.shape[1])


def _typical(inputs: Inputs) -> tuple[int, int]:
    """Queries and keys of a sequence, of packed ones on the average: all that is known without asking the device."""
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
    """Into how many pieces to cut the keys, so that few queries keep the device busy: two programs a processor."""
    queries, keys = _typical(inputs)
    if queries > FEW:
        return 1
    wanted = 2 * _multiprocessors(inputs.q.device) // (len(inputs.bias) * inputs.q.shape[1])
    return max(1, min(wanted, keys // (64 if INTERPRETED else 256)))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 8
