"""Buffers that stay in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Float32Buffers(nn.Module):
    """A module whose own buffers stay in float32: `model.to(...)` moves them to a device, but does not cast them.

    In bfloat16 one dMel value in fifty would fall into another bin, and mel filters lose most of their digits.
    """

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> nn.Module:
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            applied = self._buffers[name]
            if isinstance(applied, Tensor) and applied.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(applied.device)
        return self
