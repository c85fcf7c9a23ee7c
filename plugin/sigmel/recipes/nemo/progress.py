"""What a training in NeMo reports while it runs: `metrics.csv` and a progress bar."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from tqdm import tqdm

from sigmel.errors import SigmelError
from sigmel.recipes.training import write_metrics


class Progress(pl.Callback):
    """Writes `metrics.csv` and moves a progress bar; its history travels in the checkpoints.

    Args:
        metrics: the file.
        every: steps between two rows of it.
    """

    def __init__(self, metrics: Path, every: int) -> None:
        self.metrics, self.every = metrics, every
        self.rows: dict[int, dict[str, float]] = {}
        self.seconds_before = 0.0  # of the runs this one resumes
        self.started: float | None = None
        self.losses: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        """See Lightning."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See Lightning."""
        self.rows, self.seconds_before = state_dict["rows"], state_dict["seconds"]

    @property
    def seconds(self) -> float:
        """Seconds of training, over all resumed runs."""
        return self.seconds_before + (time.monotonic() - self.started if self.started else 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start clock and bar."""
        self.started = time.monotonic()
        often = 0.1 if sys.stderr.isatty() else 20  # a log file needs no animation
        self.bar = tqdm(total=trainer.max_steps, initial=trainer.global_step, unit="step", mininterval=often)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar and, now and then, record the mean loss."""
        step = trainer.global_step
        self.bar.update(step - self.bar.n)
        self.losses.append(outputs["loss"].detach())
        if step % self.every and step < trainer.max_steps:
            return
        loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if loss != loss:
            raise SigmelError(f"the loss is not a number at step {step}: lower the learning rate or look at the data")
        logged = trainer.callback_metrics
        norms = getattr(getattr(pl_module, "encoder", None), "attention_norms", None)  # of our encoders
        self._record(
            step,
            train_loss=loss,
            aux_loss=sum(float(value) for key, value in logged.items() if key.startswith("adapter_loss")),
            learning_rate=float(logged["learning_rate"]),
            **({} if norms is None else {"attention_norm": round(float(norms.mean()), 4)}),
        )
        self.bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self.bar.close()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record and print the word error rate or, of models that have none, the loss."""
        logged = trainer.callback_metrics
        found = {key: float(logged[key]) for key in ("val_loss", "val_wer") if key in logged}
        self._record(trainer.global_step, **found)
        said = f"dev wer {100 * found['val_wer']:.1f} %" if "val_wer" in found else f"dev loss {found['val_loss']:.3f}"
        tqdm.write(f"step {trainer.global_step}  {said}")

    def _record(self, step: int, **values: float) -> None:
        row = self.rows.setdefault(step, {"step": step})
        row.update(values, seconds=round(self.seconds, 1))
        write_metrics(self.metrics, (self.rows[step] for step in sorted(self.rows)))
