"""What a training leaves behind, the same from every host: ``metrics.csv`` and ``train.json``.

`sigmel plot` draws the first, which has a row a step; `sigmel score` takes the second into ``results.json``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from sigmel.files.atomic import atomic_path
from sigmel.models.stack import ParameterCounts

METRICS = ("step", "seconds", "train_loss", "aux_loss", "attention_norm", "learning_rate", "val_loss", "val_wer")


def write_metrics(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write rows with some of the columns `METRICS`; what a row lacks stays empty."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS)
        writer.writeheader()
        writer.writerows(rows)


def write_train_facts(path: Path, seconds: float, steps: int, counts: ParameterCounts) -> None:
    """Write ``train.json``: how long a training took, and how large the model is."""
    facts = {
        "seconds": round(seconds, 1),
        "steps": steps,
        "params_total": counts.total,
        "params_active": counts.active,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
