"""What routers do: load, entropy, agreement between layers, dead experts (arXiv 2507.05724; 2603.18297)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigmel.layers.masks import valid_frames
from sigmel.layers.routing import Router, RoutingDecision
from sigmel.models.encoder import EncoderOutput, OmniRouterEncoder

WATCHED = 200  # utterances of a set are enough for its statistics


def routers_of(encoder: nn.Module) -> list[Router]:
    """The distinct routers of an encoder, whatever host it is of; a shared one stands there once."""
    return [module for module in encoder.modules() if isinstance(module, Router)]


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of the experts each frame has in (N, K) and (N, K'): (N,) float64, those in both by those in either."""
    common = (a[:, :, None] == b[:, None, :]).sum((1, 2)).double()
    return common / (a.shape[1] + b.shape[1] - common)


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
                self._overlap[layer - 1] += jaccard(chosen, routing[layer - 1].experts[valid]).sum().cpu()

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


class RoutingWatch(RoutingStatistics):
    """Statistics that also keep the longest utterance, so that it can be drawn.

    Attributes:
        subsampling_factor: feature frames an encoder frame.
        seen: utterances so far.
        longest: number of the longest of them, the first being 0.
        experts: its (layers, frames) first choices.
    """

    def __init__(self, subsampling_factor: int) -> None:
        super().__init__()
        self.subsampling_factor = subsampling_factor
        self.seen = self.longest = 0
        self.experts: list[list[int]] = []

    def update(self, routing: Sequence[RoutingDecision], lengths: Tensor) -> None:
        """See `RoutingStatistics.update`."""
        super().update(routing, lengths)
        row, frames = int(lengths.argmax()), int(lengths.max())
        if not self.experts or frames > len(self.experts[0]):
            self.longest = self.seen + row
            self.experts = [decision.experts[row, :frames, 0].tolist() for decision in routing]
        self.seen += len(lengths)

    def report(self, rows: Sequence[dict[str, Any]], window_stride: float) -> dict[str, Any]:
        """`summary`, and under "utterance" the row of the longest one.

        Args:
            rows: of a manifest, one for each utterance seen, in the order in which they were.
            window_stride: seconds between two feature frames.

        Returns:
            The summary; "utterance" has also "experts" and "frame_seconds".
        """
        drawn = {"experts": self.experts, "frame_seconds": window_stride * self.subsampling_factor}
        return self.summary() | {"utterance": rows[self.longest] | drawn}


@contextmanager
def watch_routing(model: nn.Module) -> Iterator[RoutingWatch | None]:
    """Watch what the routers of a model's encoder do with whole utterances; None for a model without routers."""
    encoder = next((m for m in model.modules() if isinstance(m, OmniRouterEncoder) and len(m.routers)), None)
    if encoder is None:
        yield None
        return
    watch = RoutingWatch(encoder.subsampling_factor)

    def update(_: nn.Module, __: Any, output: EncoderOutput) -> None:
        watch.update(output.routing, output.lengths)

    with encoder.register_forward_hook(update):
        yield watch
