"""Expert parallelism in NeMo's training: a callback of the Lightning trainer."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from nemo.core.classes.common import Serialization
from torch.distributed.tensor.experimental import implicit_replication

from sigmel.errors import SigmelError
from sigmel.layers.expert_parallel import (
    expert_mesh,
    gather_experts,
    parallelize_experts,
    spread_optimizer_state,
    whole_state,
)


class ExpertParallel(Callback, Serialization):  # NeMo builds callbacks from YAML only if they are Serialization
    """Callback that spreads the experts over processes while a model is fitted; see `sigmel.layers.expert_parallel`.

    Checkpoints are whole, as of one process: they can be loaded with any number of processes, with this callback or
    without, and so can `.nemo` files written at the end of training or later. Gradients are clipped by the norm of all
    gradients.

        trainer:
          strategy: ddp
          callbacks:
            - _target_: sigmel.hosts.nemo.ExpertParallel
              size: 4

    Args:
        size: how many processes share the experts, a divisor of the number of processes. Default: all.

    Raises:
        SigmelError: when a fit starts, if the strategy is not DDP; the precision is 16-mixed (torch's gradient scaler
            cannot take gradients of which some are spread and some are not); a checkpoint callback saves weights only
            or `.nemo` files during training (they would hold a part of the experts); or see `expert_mesh` and
            `parallelize_experts`.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size
        self._while_fitting = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Spread the experts, before Lightning wraps the model and makes its optimizers."""
        if stage != "fit":
            return
        if not isinstance(trainer.strategy, DDPStrategy):
            raise SigmelError(f"ExpertParallel: strategy is {type(trainer.strategy).__name__}; set strategy: ddp")
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise SigmelError(f"ExpertParallel: precision {trainer.precision} scales gradients; take bf16-mixed or 32")
        for callback in trainer.callbacks:
            for option in ("save_weights_only", "always_save_nemo"):
                if isinstance(callback, ModelCheckpoint) and getattr(callback, option, False):
                    raise SigmelError(f"ExpertParallel: {type(callback).__name__} has {option}: true; set it to false")
        device = trainer.strategy.root_device
        parallelize_experts(pl_module.to(device), expert_mesh(device.type, self.size))
        self._while_fitting.enter_context(implicit_replication())  # Lightning clips all gradients in one call

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Spread the states that the optimizers took from a checkpoint."""
        for optimizer in trainer.optimizers:
            spread_optimizer_state(optimizer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint whole."""
        checkpoint["state_dict"].update(whole_state(checkpoint["state_dict"]))
        checkpoint["optimizer_states"] = [whole_state(state) for state in checkpoint["optimizer_states"]]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the model whole, before checkpoint callbacks, which come later, write a `.nemo` file."""
        gather_experts(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the context in which the model was fitted."""
        self._while_fitting.close()
