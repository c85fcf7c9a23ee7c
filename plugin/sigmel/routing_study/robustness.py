"""An encoder whose routing is disturbed, and what a recogniser loses by it (arXiv 2603.18297; 2507.05724).

Experts are shuffled, paths restricted, or noise is added to the scores; what a model loses says how much its routing
matters. Shuffles and restricted paths replace experts and keep gates: a frame goes to another expert with the weight
of the expert it would have taken. Noise changes both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from sigmel.errors import SigmelError
from sigmel.layers.masks import valid_frames
from sigmel.layers.routing import Router, RoutingDecision
from sigmel.routing_study.recogniser import RoutedRecogniser, Row, batches
from sigmel.routing_study.statistics import Table, routers_of
from sigmel.scoring.error_rates import error_rate

# (number of the layer among those with experts, its router, the router's decision) -> the decision to take instead
Change = Callable[[int, Router, RoutingDecision], RoutingDecision]


@contextmanager
def disturbed(encoder: nn.Module, change: Change) -> Iterator[None]:
    """Let `change` replace each routing decision of an encoder that calls its routers layer by layer.

    Later layers see the outputs of earlier ones as changed, and the encoder returns the changed decisions.
    """
    layer = 0

    def restart(_: nn.Module, __: Any) -> None:
        nonlocal layer
        layer = 0

    def decide(router: nn.Module, _: Any, decision: RoutingDecision) -> RoutingDecision:
        nonlocal layer
        layer += 1
        return change(layer - 1, cast(Router, router), decision)

    with ExitStack() as hooks:
        hooks.enter_context(encoder.register_forward_pre_hook(restart))
        for router in routers_of(encoder):  # each once, though all layers that share a router call it
            hooks.enter_context(router.register_forward_hook(decide))
        yield


def permute(permutations: Sequence[Tensor]) -> Change:
    """Send the frames of expert e of layer l to expert `permutations[l][e]`, with the same gate."""

    def change(layer: int, router: Router, decision: RoutingDecision) -> RoutingDecision:
        permutation = permutations[layer].to(decision.experts.device)
        return decision._replace(experts=permutation[decision.experts])

    return change


def shuffle(num_experts: Sequence[int], seed: int) -> Change:
    """`permute` by a random permutation in each layer; `num_experts` is the number of experts of each layer."""
    generator = torch.Generator().manual_seed(seed)
    return permute([torch.randperm(count, generator=generator) for count in num_experts])


def restrict(paths: Tensor) -> Change:
    """Keep frames on some paths.

    In each layer a frame takes the expert with the highest score among those that continue an allowed path on which
    the frame is so far. With more than one expert a frame, the others are the best of the rest.

    Args:
        paths: (P, L) int64, first choices of the allowed paths, P > 0.

    Raises:
        SigmelError: there is no path.
    """
    if not len(paths):
        raise SigmelError("paths: at least one must be left")
    # The paths as a tree: for each layer, the node of the next layer to which an expert leads from each node, or -1.
    node = torch.zeros(len(paths), dtype=torch.int64)
    tree = []
    for step in paths.cpu().unbind(1):
        edges, following = torch.stack([node, step], dim=1).unique(dim=0, return_inverse=True)
        leads_to = torch.full((int(node.max()) + 1, int(paths.max()) + 1), -1)
        leads_to[edges[:, 0], edges[:, 1]] = torch.arange(len(edges))
        tree.append(leads_to)
        node = following
    reached = torch.empty(0)  # (B, T) int64: the node that each frame has reached

    def change(layer: int, router: Router, decision: RoutingDecision) -> RoutingDecision:
        nonlocal reached
        logits = decision.logits
        if layer == 0:
            reached = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
        leads_to = tree[layer].to(logits.device)[reached]  # (B, T, experts that occur in paths)
        leads_to = F.pad(leads_to, (0, logits.shape[-1] - leads_to.shape[-1]), value=-1)  # (B, T, E)
        first = logits.masked_fill(leads_to < 0, -torch.inf).argmax(-1, keepdim=True)  # (B, T, 1)
        reached = leads_to.gather(-1, first).squeeze(-1)
        chosen = logits.scatter(-1, first, torch.inf).topk(router.top_k, dim=-1).indices
        return decision._replace(experts=chosen)

    return change


def noise(deviation: float, seed: int) -> Change:
    """Add Gaussian noise to the scores, and choose by the noisy scores.

    Args:
        deviation: standard deviation of the noise, in the units of the scores (logits).
        seed: of the noise.

    Raises:
        SigmelError: the deviation is negative.
    """
    if not deviation >= 0:
        raise SigmelError(f"noise: a deviation of {deviation} must be 0 or more")
    generator = torch.Generator().manual_seed(seed)

    def change(layer: int, router: Router, decision: RoutingDecision) -> RoutingDecision:
        drawn = torch.randn(decision.logits.shape, generator=generator)
        logits = decision.logits + deviation * drawn.to(decision.logits.device)
        gates, experts = logits.softmax(-1).topk(router.top_k, dim=-1)
        if router.normalize_gates:
            gates = gates / gates.sum(-1, keepdim=True)
        return decision._replace(logits=logits, experts=experts, gates=gates)

    return change


@dataclass
class Condition:
    """A way to disturb the routing, and sums over what it did.

    Attributes:
        kind: "none", "shuffle", "paths" or "noise".
        value: the number of paths that are kept, or the deviation of the noise; None for other kinds.
        seed: of the shuffle or the noise; None for other kinds.
        change: see `disturbed`; None leaves the routing as it is.
        error: squared differences in the encoder's output.
        moved: first choices that differ.
        texts: what was recognised.
    """

    kind: str
    value: float | None = None
    seed: int | None = None
    change: Change | None = None
    error: float = 0.0
    moved: int = 0
    texts: list[str] = field(default_factory=list)


def conditions(
    num_experts: Sequence[int],
    paths: Tensor,
    shuffles: int,
    path_counts: Sequence[int],
    deviations: Sequence[float],
    seed: int,
) -> list[Condition]:
    """The conditions to try, the undisturbed one first.

    Args:
        num_experts: the number of experts of each layer.
        paths: (P, L) int64, most frequent first.
        shuffles: number of random shuffles, each with a seed of its own from `seed` on.
        path_counts: numbers of the most frequent paths to keep; at most P are kept.
        deviations: standard deviations of the noise on the scores.
        seed: of the first shuffle, and of the noise.
    """
    tried = [Condition("none")]
    tried += [Condition("shuffle", None, s, shuffle(num_experts, s)) for s in range(seed, seed + shuffles)]
    kept = sorted({min(count, len(paths)) for count in path_counts})
    tried += [Condition("paths", count, None, restrict(paths[:count])) for count in kept]
    return tried + [Condition("noise", d, seed, noise(d, seed)) for d in sorted(set(deviations))]


@torch.inference_mode()
def robustness(model: RoutedRecogniser, rows: Sequence[Row], batch_size: int, tried: Sequence[Condition]) -> Table:
    """Recognise a set under each condition; shows a progress bar.

    Args:
        model: the recogniser.
        rows: rows of a manifest; rows without usable audio are left out.
        batch_size: utterances at a time.
        tried: the conditions.

    Returns:
        For each condition "disturbance", "value" and "seed"; "moved", the share of first choices that differ from the
        undisturbed ones; "change", the 2-norm of the difference in the encoder's output relative to that output; and
        "wer", "wer_low" and "wer_high", the word error rate in percent with its 95 % interval, over the utterances
        that have a text, or None if no utterance has one.
    """
    references: list[list[str]] = []
    energy, choices = 0.0, 0
    with tqdm(total=len(rows) * len(tried), desc="robustness", unit="utt", mininterval=1.0) as progress:
        for done, waveforms, lengths in batches(model, rows, batch_size, skipped=[]):
            plain = model(waveforms, lengths)
            valid = valid_frames(plain.lengths, plain.hidden.shape[1])
            energy += plain.hidden[valid].double().square().sum().item()
            choices += int(valid.sum()) * len(plain.routing)
            spoken = [number for number, row in enumerate(done) if row["text"].split()]
            references += [done[number]["text"].split() for number in spoken]
            for condition in tried:
                output = plain
                if condition.change is not None:
                    with disturbed(model.encoder, condition.change):
                        output = model(waveforms, lengths)
                condition.error += (output.hidden - plain.hidden)[valid].double().square().sum().item()
                for after, before in zip(output.routing, plain.routing, strict=True):
                    condition.moved += int((after.experts[..., 0] != before.experts[..., 0])[valid].sum())
                if spoken:
                    condition.texts += model.texts(output.hidden[spoken], output.lengths[spoken])
                progress.update(len(done))
    table = []
    for condition in tried:
        row: dict[str, Any] = {"disturbance": condition.kind, "value": condition.value, "seed": condition.seed}
        row |= {"moved": condition.moved / choices, "change": (condition.error / energy) ** 0.5}
        row |= dict.fromkeys(("wer", "wer_low", "wer_high"))
        if references:
            words = error_rate(references, [text.split() for text in condition.texts])
            row |= {"wer": words.percent, "wer_low": words.low, "wer_high": words.high}
        table.append(row)
    return table
