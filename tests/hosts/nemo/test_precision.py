"""The precision to train in, and the gradients of fused optimizers."""

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import OmegaConf

from sigmel.recipes.nemo.precision import allow_fused_optimizers


class _Slope(pl.LightningModule):
    """One weight, with a gradient of 100."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return 100 * self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0, fused=True)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_of_fused_optimizers_are_clipped(precision, algorithm):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    clip = {"gradient_clip_val": 0.25, "gradient_clip_algorithm": algorithm}
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", precision=precision, **clip, **quiet)
    allow_fused_optimizers(trainer)
    model = _Slope()
    trainer.fit(model, torch.utils.data.DataLoader([0]))
    assert model.weight.item() == pytest.approx(-0.25, rel=1e-5)


@pytest.mark.parametrize(
    ("features", "precision"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({"avx512_bf16": False}, "32-true")],
)
def test_the_precision_is_what_the_cpu_has_instructions_for(monkeypatch, features, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert OmegaConf.create({"precision": "${cpu_precision:}"}).precision == precision
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert OmegaConf.create({"precision": "${cpu_precision:}"}).precision == "32-true"
