"""Routing statistics in the training log."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from sigmel.analysis.routing import RoutingStatistics
from sigmel.errors import SigmelError
from sigmel.hosts.nemo.routed import RoutedEncoderMixin


class RoutingMonitor(Callback):
    """Logs what the routers do, in the batch of every `trainer.log_every_n_steps`-th step.

    For the n-th layer with experts "routing/layer_<n>/load_<e>" (share of the choices that went to expert e),
    "routing/layer_<n>/entropy" (nats) and "routing/layer_<n>/dead_experts" (how many were not chosen); for each pair
    of such layers "routing/overlap_<n>_<n + 1>" (mean Jaccard overlap of a frame's experts). Give it to the trainer:
    `Trainer(callbacks=[RoutingMonitor()])`.

    Raises:
        SigmelError: when training starts, if the model's encoder has no routed experts to watch.
    """

    def __init__(self) -> None:
        self._statistics: RoutingStatistics | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the encoder."""
        encoder = getattr(pl_module, "encoder", None)
        if not isinstance(encoder, RoutedEncoderMixin):
            raise SigmelError(f"RoutingMonitor: {type(encoder).__name__} is no encoder of sigmel")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch this batch, if it is to be logged."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            self._statistics = RoutingStatistics()
            pl_module.encoder.routing_observer = self._statistics.update

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what was seen."""
        if self._statistics is None:
            return
        summary, self._statistics, pl_module.encoder.routing_observer = self._statistics.summary(), None, None
        values = {f"routing/overlap_{n}_{n + 1}": overlap for n, overlap in enumerate(summary["overlap"])}
        for n, layer in enumerate(summary["layers"]):
            values |= {f"routing/layer_{n}/load_{e}": load for e, load in enumerate(layer["load"])}
            values[f"routing/layer_{n}/entropy"] = layer["entropy"]
            values[f"routing/layer_{n}/dead_experts"] = float(len(layer["dead_experts"]))
        pl_module.log_dict(values)
