"""The state of a streaming encoder, as the three tensors that NeMo hands from one chunk to the next.

NeMo's own encoder keeps attention in `cache_last_channel` (layers, B, T, D), convolutions in `cache_last_time`
(layers, B, D, T) and a length in `cache_last_channel_len` (B,); its streaming code relies on where the batch is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.layers.attention import AttentionState

Caches = tuple[Tensor, Tensor, Tensor]


def pack(state: Any) -> Caches:
    """Pack a state into caches.

    Args:
        state: a dataclass of tensors, lists and dataclasses; one int64 tensor (B,) among these counts frames.

    Returns:
        Keys and values of every attention, (layers, B, L, 2 * H * d), where L may grow from call to call; all other
        floating-point tensors in a row, (1, B, N, 1); the count, (B,).
    """
    attention, others, count = [], [], None
    for leaf in _leaves(state):
        if isinstance(leaf, AttentionState):
            keys_and_values = torch.cat([leaf.keys, leaf.values], dim=1)  # (B, 2 * H, L, d)
            attention.append(keys_and_values.transpose(1, 2).flatten(2))
        elif leaf.is_floating_point():
            others.append(leaf.flatten(1))
        else:
            count = leaf
    if count is None:
        raise SigmelError(f"{type(state).__name__}: a streaming state needs an int64 tensor (B,) that counts frames")
    return torch.stack(attention), torch.cat(others, dim=1)[None, :, :, None], count


def unpack(caches: Caches, template: Any) -> Any:
    """Unpack caches into a state of the structure of `template`, an initial state of one stream."""
    channel, time, count = caches
    attention, others, start = iter(channel), time[0, :, :, 0], 0

    def build(node: Any) -> Any:
        nonlocal start
        if isinstance(node, AttentionState):
            heads = node.keys.shape[1]
            keys_and_values = next(attention).unflatten(2, (2 * heads, -1)).transpose(1, 2)  # (B, 2 * H, L, d)
            return AttentionState(keys_and_values[:, :heads], keys_and_values[:, heads:])
        if isinstance(node, Tensor) and node.is_floating_point():
            first, start = start, start + node.numel()
            return others[:, first:start].unflatten(1, node.shape[1:])
        if isinstance(node, Tensor):
            return count
        if isinstance(node, list):
            return [build(item) for item in node]
        return type(node)(**{field.name: build(getattr(node, field.name)) for field in fields(node)})

    return build(template)


def _leaves(node: Any) -> Iterator[AttentionState | Tensor]:
    if isinstance(node, (AttentionState, Tensor)):
        yield node
    else:
        for item in node if isinstance(node, list) else [getattr(node, field.name) for field in fields(node)]:
            yield from _leaves(item)
