#!/usr/bin/env python3
"""Sigmoid attention beside softmax attention, on this machine's CPU, in float32.

The peer is torch's F.scaled_dot_product_attention. Whether ours is right is checked first, by its plain definition.
"""

from __future__ import annotations

import torch
from harness import Row, compare, compare_memory, matmul_rate, options, report
from torch import Tensor
from torch.nn import functional as F

from sigmel.ops import sigmoid_attention, sigmoid_attention_decode, sigmoid_attention_varlen

SHAPES = [(4, 8, 500, 64), (8, 4, 250, 64), (1, 8, 2000, 64), (1, 8, 4000, 64)]
PEER = "F.scaled_dot_product_attention"
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def check(*tensors: Tensor) -> None:
    """Compare a part of the op's output and gradients with those of its plain definition in float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        q, k, v = (x[:1, :1, :300].detach().to(dtype).requires_grad_() for x in tensors)
        output = sigmoid_attention(q, k, v)
        results.append([x.double() for x in (output, *torch.autograd.grad(output.square().sum(), (q, k, v)))])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, **CLOSE)


def forward(shape: tuple[int, ...], layout: str, repeats: int) -> Row:
    """Forward, q, k and v each contiguous ("BHTD"), or as a model's projections give them ("BTHD")."""
    batch, heads, frames, size = shape
    if layout == "BHTD":
        q, k, v = (torch.randn(shape) for _ in range(3))
    else:
        q, k, v = (torch.randn(batch, frames, heads, size).transpose(1, 2) for _ in range(3))
    check(q, k, v)
    with torch.no_grad():
        return compare(
            f"forward {shape} {layout}",
            lambda: sigmoid_attention(q, k, v),
            PEER,
            lambda: F.scaled_dot_product_attention(q, k, v),
            repeats,
        )


def forward_and_backward(shape: tuple[int, ...], repeats: int) -> Row:
    """Forward and backward."""
    q, k, v = (torch.randn(shape, requires_grad=True) for _ in range(3))
    grad = torch.randn(shape)
    check(q, k, v)
    return compare(
        f"forward + backward {shape}",
        lambda: torch.autograd.grad(sigmoid_attention(q, k, v), (q, k, v), grad),
        PEER,
        lambda: torch.autograd.grad(F.scaled_dot_product_attention(q, k, v), (q, k, v), grad),
        repeats,
    )


def padded(repeats: int) -> Row:
    """A batch whose lengths are spread as LibriSpeech's are, 40 % of it padding: packed, against a key mask."""
    lengths = torch.tensor([800, 780, 760, 620, 410, 260, 160, 50])  # frames of 40 ms
    batch, heads, frames, size = len(lengths), 8, int(lengths.max()), 64
    exists = torch.arange(frames) < lengths[:, None]
    q, k, v = (torch.randn(batch, heads, frames, size) for _ in range(3))
    packed = [x.transpose(1, 2)[exists] for x in (q, k, v)]  # (total, H, D)
    cumulative = F.pad(lengths.cumsum(0), (1, 0))
    mask = exists[:, None, None]
    print(f"padding: {1 - lengths.sum().item() / exists.numel():.0%} of the batch")
    with torch.no_grad():
        together = sigmoid_attention(q, k, v, key_lengths=lengths)
        apart = sigmoid_attention_varlen(*packed, cumulative, cumulative)
        torch.testing.assert_close(apart, together.transpose(1, 2)[exists], **CLOSE)
        return compare(
            f"padded batch, lengths {lengths.tolist()}",
            lambda: sigmoid_attention_varlen(*packed, cumulative, cumulative),
            PEER + " with a key mask",
            lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
            repeats,
        )


def decoding(keys: int, repeats: int) -> Row:
    """One new query of each of 8 sequences, on a cache that lies in pages of 64 keys; the peer's is contiguous."""
    batch, heads, size, page = 8, 8, 64, 64
    q, k, v = (torch.randn(batch, heads, frames, size) for frames in (1, keys, keys))
    lengths = torch.full((batch,), keys)
    table = torch.randperm(batch * keys // page).view(batch, -1)
    caches = []
    for x in (k, v):
        pages = x.unflatten(2, (-1, page)).transpose(1, 2).flatten(0, 1)  # (B pages, H, page, D), in order
        caches.append(torch.empty_like(pages).index_copy_(0, table.flatten(), pages))
    with torch.no_grad():
        paged = sigmoid_attention_decode(q, *caches, lengths, page_table=table)
        torch.testing.assert_close(paged, sigmoid_attention(q, k, v), **CLOSE)
        return compare(
            f"decoding, one query, {keys} keys in pages",
            lambda: sigmoid_attention_decode(q, *caches, lengths, page_table=table),
            PEER + ", contiguous",
            lambda: F.scaled_dot_product_attention(q, k, v),
            repeats,
        )


def memory() -> Row:
    """Extra memory at its peak, output included, against the eager formula."""
    setup = """
from sigmel.ops import sigmoid_attention
q, k, v = (torch.randn(1, 8, 4000, 64) for _ in range(3))
first = q[:, :, :1], k[:, :, :1], v[:, :, :1]  # loads what is loaded once, and frees nothing large
sigmoid_attention(*first)
torch.sigmoid(first[0] @ first[1].mT) @ first[2]
"""
    ours, eager = "sigmoid_attention(q, k, v)", "torch.sigmoid(q @ k.mT / 8 - 8.3) @ v"
    return compare_memory("memory (1, 8, 4000, 64)", setup, ours, "eager sigmoid", eager)


def main() -> None:
    """Run everything."""
    args = options(__doc__)
    print(f"matmul: {matmul_rate():.0f} GFLOP/s with {torch.get_num_threads()} threads")
    rows = [forward(shape, layout, args.repeats) for layout in ("BHTD", "BTHD") for shape in SHAPES]
    rows += [forward_and_backward(shape, max(3, args.repeats // 2)) for shape in SHAPES]
    rows += [padded(args.repeats), *(decoding(keys, args.repeats) for keys in (512, 4096)), memory()]
    report(rows, args.json)


if __name__ == "__main__":
    main()
