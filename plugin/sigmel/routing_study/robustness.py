"""What a recogniser loses when its routing is disturbed (arXiv 2603.18297; 2507.05724)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigmel.layers.masks import valid_frames
from sigmel.routing_study.disturbance import Change, disturbed, noise, restrict, shuffle
from sigmel.routing_study.recogniser import Encoded, RoutedRecogniser, Row, batches
from sigmel.scoring.errors import error_rate


class Condition(NamedTuple):
    """A way to disturb the routing; without a change, none.

    Attributes:
        kind: "none", "shuffle", "paths" or "noise".
        value: how many paths are left, or the deviation of the noise.
        seed: where there is chance.
        change: what is done.
    """

    kind: str
    value: float | None = None
    seed: int | None = None
    change: Change | None = None


def conditions(
    num_experts: Sequence[int],
    paths: Tensor,
    shuffles: int,
    path_counts: Sequence[int],
    deviations: Sequence[float],
    seed: int,
) -> list[Condition]:
    """What to try.

    Args:
        num_experts: of each layer.
        paths: (P, L) int64, most frequent first.
        shuffles: how many random shuffles, each with a seed of its own from `seed` on.
        path_counts: how many of the most frequent paths to keep; more than there are keep all.
        deviations: of the noise on the scores.
        seed: of the chance in it.
    """
    tried = [Condition("none")]
    tried += [Condition("shuffle", None, s, shuffle(num_experts, s)) for s in range(seed, seed + shuffles)]
    kept = sorted({min(count, len(paths)) for count in path_counts})
    tried += [Condition("paths", count, None, restrict(paths[:count])) for count in kept]
    return tried + [Condition("noise", d, seed, noise(d, seed)) for d in sorted(set(deviations))]


@dataclass
class _Sums:
    """What one condition adds up to."""

    error: float = 0.0
    energy: float = 0.0
    moved: int = 0
    choices: int = 0
    texts: list[str] = field(default_factory=list)

    def add(self, output: Encoded, plain: Encoded) -> None:
        valid = valid_frames(plain.lengths, plain.hidden.shape[1])
        self.error += (output.hidden - plain.hidden)[valid].double().square().sum().item()
        self.energy += plain.hidden[valid].double().square().sum().item()
        for after, before in zip(output.routing, plain.routing, strict=True):
            moved = (after.experts[..., 0] != before.experts[..., 0])[valid]
            self.moved += int(moved.sum())
            self.choices += moved.numel()


@torch.inference_mode()
def robustness(
    model: RoutedRecogniser, rows: Sequence[Row], batch_size: int, tried: Sequence[Condition]
) -> list[dict[str, Any]]:
    """Run a set under each condition; shows its progress.

    Args:
        model: the recogniser.
        rows: of a manifest; those without usable audio are passed over.
        batch_size: utterances at a time.
        tried: the conditions.

    Returns:
        For each condition "disturbance", "value" and "seed"; "moved", the share of first choices that differ from the
        undisturbed ones; "change", the 2-norm of what it adds to the encoder's output relative to that output; and
        "wer", "wer_low" and "wer_high", the word error rate in percent with its 95 % interval, over the utterances
        that have a text: None where none has.
    """
    from tqdm import tqdm

    sums = [_Sums() for _ in tried]
    references: list[list[str]] = []
    with tqdm(total=len(rows) * len(tried), desc="robustness", unit="utt", mininterval=1.0) as progress:
        for batch in batches(model, rows, batch_size, skipped=[]):
            plain = model(batch.waveforms, batch.lengths)
            spoken = [number for number, row in enumerate(batch.rows) if row["text"].split()]
            references += [batch.rows[number]["text"].split() for number in spoken]
            for condition, total in zip(tried, sums, strict=True):
                output = plain
                if condition.change is not None:
                    with disturbed(model.encoder, condition.change):
                        output = model(batch.waveforms, batch.lengths)
                total.add(output, plain)
                if spoken:
                    total.texts += model.texts(output.hidden[spoken], output.lengths[spoken])
                progress.update(len(batch.rows))
    found = []
    for condition, total in zip(tried, sums, strict=True):
        row: dict[str, Any] = {"disturbance": condition.kind, "value": condition.value, "seed": condition.seed}
        row |= {"moved": total.moved / total.choices, "change": (total.error / total.energy) ** 0.5}
        row |= dict.fromkeys(("wer", "wer_low", "wer_high"))
        if references:
            words = error_rate(references, [text.split() for text in total.texts])
            row |= {"wer": words.percent, "wer_low": words.low, "wer_high": words.high}
        found.append(row)
    return found
