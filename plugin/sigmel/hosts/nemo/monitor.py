"""Routing statistics and attention norms in the training log."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from sigmel.errors import SigmelError
from sigmel.hosts.nemo.encoder import EncoderMixin
from sigmel.routing_study.statistics import RoutingStatistics


class _EncoderMonitor(Callback):
    """Callback that watches an encoder of sigmel, and refuses other encoders when training starts."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the encoder."""
        encoder = getattr(pl_module, "encoder", None)
        if not isinstance(encoder, EncoderMixin):
            raise SigmelError(f"{type(self).__name__}: {type(encoder).__name__} is no encoder of sigmel")


class RoutingMonitor(_EncoderMonitor):
    """Callback that logs where the routers send frames, in the batch of every `trainer.log_every_n_steps`-th step.

    Logged for the n-th layer with experts: "routing/layer_<n>/load_<e>" (share of the choices that went to expert e),
    "routing/layer_<n>/entropy" (nats) and "routing/layer_<n>/dead_experts" (how many were not chosen); for each pair
    of consecutive layers with experts: "routing/overlap_<n>_<n + 1>" (mean Jaccard overlap of a frame's experts).
    Usage: `Trainer(callbacks=[RoutingMonitor()])`.

    Raises:
        SigmelError: when training starts, if the model's encoder is not one of sigmel's.
    """

    def __init__(self) -> None:
        self._statistics: RoutingStatistics | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Watch this batch, if it is to be logged."""
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            self._statistics = RoutingStatistics()
            pl_module.encoder.routing_observer = self._statistics.update

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the statistics of this batch."""
        if self._statistics is None:
            return
        summary, self._statistics, pl_module.encoder.routing_observer = self._statistics.summary(), None, None
        values = {f"routing/overlap_{n}_{n + 1}": overlap for n, overlap in enumerate(summary["overlap"])}
        for n, layer in enumerate(summary["layers"]):
            values |= {f"routing/layer_{n}/load_{e}": load for e, load in enumerate(layer["load"])}
            values[f"routing/layer_{n}/entropy"] = layer["entropy"]
            values[f"routing/layer_{n}/dead_experts"] = float(len(layer["dead_experts"]))
        pl_module.log_dict(values)


class AttentionNormMonitor(_EncoderMonitor):
    """Callback that logs how much each layer's attention adds to a frame, every `trainer.log_every_n_steps`-th step.

    "attention_norm/layer_<n>" is the 2-norm in a layer, see `sigmel.models.encoder.EncoderOutput`, and
    "attention_norm" the mean over layers. Usage: `Trainer(callbacks=[AttentionNormMonitor()])`.

    Raises:
        SigmelError: when training starts, if the model's encoder is not one of sigmel's.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the norms of this batch."""
        norms = pl_module.encoder.attention_norms
        if norms is None or trainer.global_step % trainer.log_every_n_steps:
            return
        values = {f"attention_norm/layer_{n}": norm for n, norm in enumerate(norms)}
        pl_module.log_dict({"attention_norm": norms.mean(), **values})
