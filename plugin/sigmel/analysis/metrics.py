"""``metrics.csv``: what was measured while a model was trained, a row a step; `sigmel plot` draws it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from sigmel.data.atomic import atomic_path

METRICS = ("step", "seconds", "train_loss", "aux_loss", "learning_rate", "val_loss", "val_wer")


def write_metrics(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write rows with some of the columns `METRICS`; what a row lacks stays empty."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS)
        writer.writeheader()
        writer.writerows(rows)
