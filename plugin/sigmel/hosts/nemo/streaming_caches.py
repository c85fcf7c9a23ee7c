"""The state of a streaming encoder, as the three tensors that NeMo hands from one chunk to the next.

NeMo's own encoder keeps attention in `cache_last_channel` (layers, B, T, D), convolutions in `cache_last_time`
(layers, B, D, T) and a length in `cache_last_channel_len` (B,); its streaming code relies on where the batch is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.layers.attention import AttentionState
from sigmel.layers.streaming_state import map_state

Caches = tuple[Tensor, Tensor, Tensor]
LEAVES = AttentionState, Tensor


def pack(state: Any) -> Caches:
    """Pack a state into caches.

    Args:
        state: a dataclass of tensors, lists and dataclasses; one int64 tensor (B,) among these counts frames.

    Returns:
        Keys and values of every attention, (layers, B, L, 2 * H * d), where L may grow from call to call; all other
        floating-point tensors in a row, (1, B, N, 1); the count, (B,).
    """
    attention, others, count = [], [], None

    def take(leaf: Any) -> Any:
        nonlocal count
        if isinstance(leaf, AttentionState):
            keys_and_values = torch.cat([leaf.keys, leaf.values], dim=1)  # (B, 2 * H, L, d)
            attention.append(keys_and_values.transpose(1, 2).flatten(2))
        elif leaf.is_floating_point():
            others.append(leaf.flatten(1))
        else:
            count = leaf

    map_state(take, state, leaf=LEAVES)
    if count is None:
        raise SigmelError(f"{type(state).__name__}: a streaming state needs an int64 tensor (B,) that counts frames")
    return torch.stack(attention), torch.cat(others, dim=1)[None, :, :, None], count


def unpack(caches: Caches, template: Any) -> Any:
    """Unpack caches into a state of the structure of `template`, an initial state of one stream."""
    channel, time, count = caches
    attention, others, start = iter(channel), time[0, :, :, 0], 0

    def give(leaf: Any) -> Any:
        nonlocal start
        if isinstance(leaf, AttentionState):
            heads = leaf.keys.shape[1]
            keys_and_values = next(attention).unflatten(2, (2 * heads, -1)).transpose(1, 2)  # (B, 2 * H, L, d)
            return AttentionState(keys_and_values[:, :heads], keys_and_values[:, heads:])
        if not leaf.is_floating_point():
            return count
        first, start = start, start + leaf.numel()
        return others[:, first:start].unflatten(1, leaf.shape[1:])

    return map_state(give, template, leaf=LEAVES)
