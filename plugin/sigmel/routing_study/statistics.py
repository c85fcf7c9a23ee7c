"""What routers do: load, entropy, agreement between layers, dead experts (arXiv 2507.05724; 2603.18297)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigmel.errors import SigmelError
from sigmel.layers.masks import valid_frames
from sigmel.layers.routing import Router, RoutingDecision

Table = list[dict[str, Any]]
WATCHED = 200  # utterances of a set are enough for its statistics


def routers_of(encoder: nn.Module) -> list[Router]:
    """The distinct routers of an encoder of any host; a router that layers share is listed once."""
    return [module for module in encoder.modules() if isinstance(module, Router)]


@contextmanager
def decisions_of(encoder: nn.Module) -> Iterator[list[tuple[int, RoutingDecision]]]:
    """Record what the routers of an encoder decide during the block.

    Yields:
        A list that grows with each decision: the number of the router, from 0, and what the router decided. A call of
        the encoder adds one for each layer with experts, in the order of the layers.
    """
    decisions: list[tuple[int, RoutingDecision]] = []
    with ExitStack() as hooks:
        for number, router in enumerate(routers_of(encoder)):

            def record(_: nn.Module, __: Any, decision: RoutingDecision, number: int = number) -> None:
                decisions.append((number, decision))

            hooks.enter_context(router.register_forward_hook(record))
        yield decisions


def check_frames(decisions: Sequence[tuple[int, RoutingDecision]], frames: Sequence[int]) -> None:
    """Raise a SigmelError if a layer decided for another number of frames than those given."""
    if any(decision.experts.shape[1] not in frames for _, decision in decisions):
        raise SigmelError("encoder: it drops frames between its layers, whose choices cannot be compared then")


def jaccard(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of a frame's experts in (N, K) and (N, K'): (N,) float64, experts in both by experts in either."""
    common = (a[:, :, None] == b[:, None, :]).sum((1, 2)).double()
    return common / (a.shape[1] + b.shape[1] - common)


class RoutingStatistics:
    """Load, entropy and overlap over batches: call `update` with each batch, `summary` at any time.

    Only sums are kept, on the CPU in float64, so a whole training or test set may be added; and the experts of the
    longest utterance, so that it can be drawn.

    Attributes:
        frames: number of frames so far.
        seen: number of utterances so far.
        longest: number of the longest utterance, from 0.
        experts: its (layers, frames) first choices.
    """

    def __init__(self) -> None:
        self.frames = self.seen = self.longest = 0
        self.experts: list[list[int]] = []
        self._chosen: list[Tensor] = []  # for each layer: how often each expert was chosen
        self._entropy: list[Tensor] = []  # for each layer: sum of the entropies of its distributions
        self._overlap: list[Tensor] = []  # for each pair of consecutive layers: sum of Jaccard overlaps

    @torch.no_grad()
    def update(self, routing: Sequence[RoutingDecision], lengths: Tensor) -> None:
        """Add a batch.

        Args:
            routing: the decision of each layer with experts.
            lengths: (B,) int64, encoder frames; later frames do not count.
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
        row, frames = int(lengths.argmax()), int(lengths.max())
        if not self.experts or frames > len(self.experts[0]):
            self.longest = self.seen + row
            self.experts = [decision.experts[row, :frames, 0].tolist() for decision in routing]
        self.seen += len(lengths)

    def summary(self) -> dict[str, Any]:
        """The statistics of all batches so far, ready for JSON.

        Returns:
            "frames"; "layers": for each layer with experts "load" (share of the choices of each expert), "entropy"
            (nats, mean over frames of the router's distribution) and "dead_experts" (never chosen); "overlap": for
            each pair of consecutive layers with experts the mean Jaccard overlap of a frame's experts.
        """
        frames = max(self.frames, 1)
        layers = [
            {
                "load": (chosen / chosen.sum().clamp(min=1)).tolist(),
                "entropy": (entropy / frames).item(),
                "dead_experts": (chosen == 0).nonzero().flatten().tolist(),
            }
            for chosen, entropy in zip(self._chosen, self._entropy, strict=True)
        ]
        overlap = [(overlap / frames).item() for overlap in self._overlap]
        return {"frames": self.frames, "layers": layers, "overlap": overlap}

    def report(self, rows: Sequence[dict[str, Any]], seconds: Sequence[float]) -> dict[str, Any]:
        """`summary`, and under "utterance" the row of the longest utterance with "experts" and "frame_seconds".

        Args:
            rows: rows of a manifest, one for each utterance seen, in the same order.
            seconds: the durations of their audio.
        """
        drawn = {"experts": self.experts, "frame_seconds": seconds[self.longest] / len(self.experts[0])}
        return self.summary() | {"utterance": rows[self.longest] | drawn}


@contextmanager
def watch_routing(model: nn.Module) -> Iterator[RoutingStatistics | None]:
    """Watch what the routers of a recogniser's encoder do with whole utterances.

    Args:
        model: any host's recogniser, whose `encoder` returns (B, T, D) or (B, D, T) frames, then their (B,) lengths.

    Yields:
        The statistics, which grow with each call of the encoder; None for a model without an encoder with routers.
    """
    encoder = getattr(model, "encoder", None)
    if encoder is None or not routers_of(encoder):
        yield None
        return
    statistics = RoutingStatistics()
    with decisions_of(encoder) as decisions:

        def update(_: nn.Module, __: Any, output: tuple[Any, ...]) -> None:
            hidden = (
                output[0][0] if isinstance(output[0], tuple) else output[0]
            )  # ESPnet: outputs of other layers, too
            check_frames(decisions, hidden.shape[1:])
            statistics.update([decision for _, decision in decisions], output[1])
            decisions.clear()

        with encoder.register_forward_hook(update):
            yield statistics
