"""What routers do: load, entropy, agreement between layers, dead experts (arXiv 2507.05724; 2603.18297)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigmel.layers.masks import valid_frames
from sigmel.layers.routing import RoutingDecision


class RoutingStatistics:
    """Sums over batches; `update` with what the encoder returned, `summary` at any time.

    Only sums are kept, on the CPU in float64, so that it can run over a whole training or test set.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._chosen: list[Tensor] = []  # for each layer: how often each expert was chosen
        self._entropy: list[Tensor] = []  # for each layer: sum of the entropies of its distributions
        self._overlap: list[Tensor] = []  # for each pair of consecutive layers: sum of Jaccard overlaps

    @torch.no_grad()
    def update(self, routing: Sequence[RoutingDecision], lengths: Tensor) -> None:
        """Add a batch.

        Args:
            routing: a decision for each expert layer.
            lengths: (B,) int64, encoder frames; frames beyond them do not count.
        """
        if not routing:
            return
        if not self._chosen:
            self._chosen = [torch.zeros(d.logits.shape[-1], dtype=torch.float64) for d in routing]
            self._entropy = [torch.zeros((), dtype=torch.float64) for _ in routing]
            self._overlap = [torch.zeros((), dtype=torch.float64) for _ in routing[1:]]
        valid = valid_frames(lengths, routing[0].experts.shape[1])
        self.frames += int(valid.sum())
        for layer, decision in enumerate(routing):
            chosen = decision.experts[valid]  # (N, K)
            self._chosen[layer] += torch.bincount(chosen.flatten(), minlength=len(self._chosen[layer])).cpu()
            log_p = decision.logits[valid].double().log_softmax(-1)
            self._entropy[layer] -= (log_p.exp() * log_p).sum().cpu()
            if layer:
                before = routing[layer - 1].experts[valid]
                common = (chosen[:, :, None] == before[:, None, :]).sum((1, 2)).double()
                self._overlap[layer - 1] += (common / (chosen.shape[1] + before.shape[1] - common)).sum().cpu()

    def summary(self) -> dict[str, Any]:
        """What was seen so far, ready for JSON.

        Returns:
            "frames"; "layers": for each expert layer its "load" (share of the choices of each expert), "entropy"
            (nats, mean over frames of the router's distribution) and "dead_experts" (never chosen); "overlap": for
            each pair of consecutive expert layers the mean Jaccard overlap of the experts a frame chose.
        """
        layers = [
            {
                "load": (chosen / chosen.sum().clamp(min=1)).tolist(),
                "entropy": (entropy / max(self.frames, 1)).item(),
                "dead_experts": (chosen == 0).nonzero().flatten().tolist(),
            }
            for chosen, entropy in zip(self._chosen, self._entropy, strict=True)
        ]
        return {
            "frames": self.frames,
            "layers": layers,
            "overlap": [(overlap / max(self.frames, 1)).item() for overlap in self._overlap],
        }
