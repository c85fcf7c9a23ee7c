"""Precisions of training: the fastest on this CPU, and bfloat16 with fused optimizers."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.types import Optimizable
from lightning.pytorch.plugins import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from omegaconf import OmegaConf


class Bfloat16(MixedPrecision):
    """Lightning's bf16-mixed, which also clips the gradients of fused optimizers.

    Lightning refuses fused optimizers in mixed precision, as they undo the scaling of gradients themselves; bfloat16
    needs no scaling.
    """

    def clip_gradients(
        self,
        optimizer: Optimizable,
        clip_val: int | float = 0.0,
        gradient_clip_algorithm: GradClipAlgorithmType = GradClipAlgorithmType.NORM,
    ) -> None:
        """See `Precision`."""
        Precision.clip_gradients(self, optimizer, clip_val, gradient_clip_algorithm)


def allow_fused_optimizers(trainer: pl.Trainer) -> None:
    """Give a trainer of precision bf16-mixed the plugin `Bfloat16`."""
    plugin = trainer.precision_plugin
    if type(plugin) is MixedPrecision and plugin.precision == "bf16-mixed":
        trainer.strategy.precision_plugin = Bfloat16("bf16-mixed", plugin.device)


def cpu_precision() -> str:
    """Lightning's name of the fastest precision of training: bfloat16 if this CPU has instructions for it.

    A configuration says `precision: ${cpu_precision:}`.
    """
    features: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch do not say
    return "bf16-mixed" if features.get("avx512_bf16") or features.get("amx_bf16") else "32-true"


OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
