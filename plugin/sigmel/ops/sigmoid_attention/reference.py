"""Plain definition of sigmoid attention, and of its derivative (arXiv 2409.04431, section 2 and appendix).

A query at position p of a sequence gives `sum_j sigmoid(scale * q.k_j - slope * |p - j| + bias) * v_j` over the keys j
that the query sees. There is no sum to divide by: padding must not count as keys, and `bias`, which keeps the sum of
the weights near 1 at the start, follows the number of keys of each sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Context(NamedTuple):
    """Which keys a query sees: those of its own chunk, `left` before it and `right` after it.

    Attributes:
        chunk: positions a chunk; 1 where each query is a chunk.
        left: keys before the chunk; -1 for all.
        right: keys after the chunk; -1 for all.
    """

    chunk: int = 1
    left: int = -1
    right: int = -1

    def mask(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(..., Q, K) bool, true where the query at a position (..., Q) sees the key at a position (K,)."""
        first = (queries // self.chunk * self.chunk)[..., None]
        seen = torch.ones_like(first - keys, dtype=torch.bool)
        if self.left >= 0:
            seen = seen & (keys >= first - self.left)
        if self.right >= 0:
            seen = seen & (keys < first + self.chunk + self.right)
        return seen


class Layout(NamedTuple):
    """Where the sequences are.

    In a padded batch, sequence n is row n of q, k and v, from the start on. Packed sequences share one row of q, k and
    v, and sequence n lies between two of the cumulative lengths.

    Attributes:
        cu_queries, cu_keys: (N + 1,) cumulative lengths of packed sequences; None for a padded batch.
        query_lengths, key_lengths: (N,) lengths in a padded batch; None for all. The output of other queries is zero.
        query_start: (N,) position of each sequence's first query among its keys; None for 0.
        page_table: (N, pages) the row of k and v that holds each page of a sequence's keys, whose lengths are then
            given. None where row n of k and v holds the keys of sequence n.
    """

    cu_queries: Tensor | None
    cu_keys: Tensor | None
    query_lengths: Tensor | None
    key_lengths: Tensor | None
    query_start: Tensor | None
    page_table: Tensor | None = None

    def sequences(self, q: Tensor, k: Tensor) -> Iterator[tuple[int, slice, slice, int]]:
        """For each sequence: its row, its queries, its keys, and the position of its first query."""
        packed = self.cu_queries is not None
        for n in range(len(self.cu_queries) - 1 if self.cu_queries is not None else len(q)):
            start = 0 if self.query_start is None else int(self.query_start[n])
            queries = _slice(n, self.cu_queries, self.query_lengths, q)
            keys = _slice(n, self.cu_keys, self.key_lengths, k)
            yield 0 if packed else n, queries, keys, start


class Inputs(NamedTuple):
    """What every form of the op is given; the arguments of `torch.ops.sigmel.sigmoid_attention`.

    Attributes:
        q: (B, H, Tq, D).
        k, v: (B, H / group, Tk, D); with a page table (pages, H / group, page size, D).
        bias: (N, H).
        slopes: (H,) of ALiBi, or None.
        layout: where the N sequences are.
        scale: of the scores.
        context: which keys a query sees.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor
    slopes: Tensor | None
    layout: Layout
    scale: float
    context: Context

    @property
    def group(self) -> int:
        """Query heads that share a key head."""
        return self.q.shape[1] // self.k.shape[1]

    def of_query_heads(self, x: Tensor) -> Tensor:
        """(B, H, T, D) keys or values of the query heads from (B, H / group, T, D) of the key heads."""
        return x.repeat_interleave(self.group, 1)


def _slice(n: int, cumulative: Tensor | None, lengths: Tensor | None, x: Tensor) -> slice:
    if cumulative is not None:
        return slice(int(cumulative[n]), int(cumulative[n + 1]))
    return slice(0, x.shape[2] if lengths is None else int(lengths[n]))


def weights(inputs: Inputs) -> Tensor:
    """(B, H, Q, K) weights of a padded batch, zero where a query or a key is padding, or the key is not seen."""
    q, k, _, bias, slopes, layout, scale, context = inputs
    frames = torch.arange(k.shape[2], device=q.device)
    index = torch.arange(q.shape[2], device=q.device).expand(q.shape[0], -1)  # (B, Q)
    position = index if layout.query_start is None else index + layout.query_start[:, None]
    seen = context.mask(position, frames)
    if layout.query_lengths is not None:
        seen = seen & (index < layout.query_lengths[:, None])[..., None]
    if layout.key_lengths is not None:
        seen = seen & (frames < layout.key_lengths[:, None, None])
    scores = scale * (q @ inputs.of_query_heads(k).mT) + bias[:, :, None, None]
    if slopes is not None:
        scores = scores - slopes[:, None, None] * (position[..., None] - frames).abs()[:, None]
    return torch.where(seen[:, None], torch.sigmoid(scores), 0.0)


def dense(inputs: Inputs) -> Tensor:
    """The op for padded batches in plain operators, all sequences at once: for graphs that must not contain the op."""
    k, v = (_unpaged(x, inputs.layout.page_table) for x in (inputs.k, inputs.v))
    return weights(inputs._replace(k=k)).to(inputs.q.dtype) @ inputs.of_query_heads(v)


def forward(inputs: Inputs) -> Tensor:
    """The output, shaped and typed as q; see `sigmel.ops.sigmoid_attention`."""
    output = torch.zeros_like(inputs.q)
    for queries, _, alone in _sequences(inputs):
        output[queries] = (weights(alone) @ alone.of_query_heads(alone.v)).to(output.dtype)
    return output


def backward(grad: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and bias, given that of the output; pages have no gradient."""
    grad_q, grad_k, grad_v, grad_bias = (torch.zeros_like(t) for t in inputs[:4])
    for n, (queries, keys, alone) in enumerate(_sequences(inputs)):
        above, weight = _wide(grad[queries]), weights(alone)
        key, value = (alone.of_query_heads(x) for x in (alone.k, alone.v))
        score = weight * (1 - weight) * (above @ value.mT)  # (1, H, Q, K)
        grad_q[queries] = (inputs.scale * (score @ key)).to(grad_q.dtype)
        for gradient, factor in ((grad_k, inputs.scale * (score.mT @ alone.q)), (grad_v, weight.mT @ above)):
            gradient[keys] = factor.unflatten(1, (-1, inputs.group)).sum(2).to(gradient.dtype)
        grad_bias[n] = score.sum((0, 2, 3))
    return grad_q, grad_k, grad_v, grad_bias


def _sequences(inputs: Inputs) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], Inputs]]:
    """Where each sequence lies in q, and in k and v; and the sequence alone, without padding, in float32 at least."""
    q, bias = inputs.q, inputs.bias
    k, v = (_unpaged(x, inputs.layout.page_table) for x in (inputs.k, inputs.v))
    for n, (row, queries, keys, start) in enumerate(inputs.layout.sequences(q, k)):
        of_q, of_k = ((slice(row, row + 1), slice(None), times) for times in (queries, keys))
        layout = Layout(None, None, None, None, torch.tensor([start], device=q.device))
        tensors = _wide(q[of_q]), _wide(k[of_k]), _wide(v[of_k]), bias[n : n + 1]
        yield of_q, of_k, Inputs(*tensors, inputs.slopes, layout, inputs.scale, inputs.context)


def _unpaged(x: Tensor, page_table: Tensor | None) -> Tensor:
    """(pages, H, page size, D) as (N, H, T, D), copied together; a number that is no page is any page."""
    if page_table is None:
        return x
    return x[page_table.clamp(0, x.shape[0] - 1)].transpose(1, 2).flatten(2, 3)


def _wide(x: Tensor) -> Tensor:
    """x in float32, unless it is in float64: half precision is computed in float32."""
    return x if x.dtype == torch.float64 else x.float()
