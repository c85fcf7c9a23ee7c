"""What a training tells while it runs: ``metrics.csv`` and one line."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from sigmel.errors import SigmelError
from sigmel.scoring.metrics import write_metrics


class Progress(pl.Callback):
    """Writes ``metrics.csv`` and one line of progress; its history travels in the checkpoints."""

    def __init__(self, metrics: Path, every: int) -> None:
        self.metrics, self.every = metrics, every
        self.rows: dict[int, dict[str, float]] = {}
        self.seconds_before = 0.0  # of the runs this one resumes
        self.started: float | None = None
        self.losses: list[torch.Tensor] = []
        self.last_print = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds_before = state_dict["rows"], state_dict["seconds"]

    @property
    def seconds(self) -> float:
        """Seconds of training, over all resumed runs."""
        return self.seconds_before + (time.monotonic() - self.started if self.started else 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started, self.first_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self.losses.append(outputs["loss"].detach())
        if step % self.every and step < trainer.max_steps:
            return
        loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if loss != loss:
            raise SigmelError(f"the loss is not a number at step {step}: lower the learning rate or look at the data")
        logged = trainer.callback_metrics
        self._record(
            step,
            train_loss=loss,
            aux_loss=sum(float(value) for key, value in logged.items() if key.startswith("adapter_loss")),
            **attention_norm(getattr(pl_module, "encoder", None)),
            learning_rate=float(logged["learning_rate"]),
        )
        self._print(trainer, loss)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if sys.stdout.isatty():
            print()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logged = trainer.callback_metrics
        found = {key: float(logged[key]) for key in ("val_loss", "val_wer") if key in logged}
        self._record(trainer.global_step, **found)
        told = f"dev wer {100 * found['val_wer']:.1f} %" if "val_wer" in found else f"dev loss {found['val_loss']:.3f}"
        _say(f"step {trainer.global_step}  {told}", end="\n")

    def _record(self, step: int, **values: float) -> None:
        row = self.rows.setdefault(step, {"step": step})
        row.update(values, seconds=round(self.seconds, 1))
        write_metrics(self.metrics, (self.rows[step] for step in sorted(self.rows)))

    def _print(self, trainer: pl.Trainer, loss: float) -> None:
        now, step = time.monotonic(), trainer.global_step
        if not sys.stdout.isatty() and now - self.last_print < 20:  # a log file needs no animation
            return
        self.last_print = now
        speed = (step - self.first_step) / (self.seconds - self.seconds_before)
        eta = (trainer.max_steps - step) / speed
        _say(
            f"step {step}/{trainer.max_steps}  loss {loss:.3f}  {speed:.2f} steps/s  "
            f"ETA {int(eta // 60)}:{int(eta % 60):02d}",
            end="\r" if sys.stdout.isatty() else "\n",
        )


def attention_norm(encoder: torch.nn.Module | None) -> dict[str, float]:
    """The column of ``metrics.csv``, if this is an encoder of ours."""
    norms = getattr(encoder, "attention_norms", None)
    return {} if norms is None else {"attention_norm": round(float(norms.mean()), 4)}


def _say(text: str, end: str) -> None:
    print(f"\033[K{text}" if sys.stdout.isatty() else text, end=end, flush=True)
