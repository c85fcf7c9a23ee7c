"""Expert parallelism under Lightning: two processes train as one, and read each other's checkpoints."""

import os

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from nemo.collections.asr.models import EncDecCTCModel
from nemo.utils.callbacks import NeMoModelCheckpoint
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import OmegaConf
from torch.nn.utils import get_total_norm

from sigmel.errors import SigmelError
from sigmel.hosts.nemo import ExpertParallel
from sigmel.layers.expert_parallel import ParallelExpertFeedForward

pytestmark = pytest.mark.xdist_group("nemo")

EXACT = {"experts": 4, "dropout": 0.0, "jitter": 0.0}
CONFORMER = {
    "_target_": "sigmel.hosts.nemo.OmniRouterConformerEncoder",
    "conv_norm_type": "layer_norm",
    "dropout": 0.0,
}
CONFORMER |= {"dropout_pre_encoder": 0.0, "dropout_att": 0.0, "experts": 4, "jitter": 0.0}


class Watch(Callback):
    """There is something to test: the experts are spread, and the gradients, not yet clipped here, are large."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        layers = [module for module in pl_module.modules() if isinstance(module, ParallelExpertFeedForward)]
        assert [len(layer.w1.to_local()) for layer in layers] == [2, 2]
        assert get_total_norm(p.grad for p in pl_module.parameters() if p.grad is not None) > 1


def fit(config, folder, steps, processes=1, start=None):
    """Train on the same four utterances a step, and leave a checkpoint and a .nemo file."""
    saving = NeMoModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    training = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_steps=steps,
        gradient_clip_val=0.1,
        callbacks=[saving, *([ExpertParallel(), Watch()] if processes > 1 else [])],
        limit_val_batches=0,
        **quiet,
    )
    config.train_ds.batch_size = 4 // processes
    torch.manual_seed(0)
    model = EncDecCTCModel(cfg=config, trainer=training)
    training.fit(model, ckpt_path=start)
    assert not any(isinstance(module, ParallelExpertFeedForward) for module in model.modules())


def work(rank, world, store, configs, folder):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "localhost"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for name, config in configs.items():
        config = OmegaConf.create(config)
        fit(config, f"{folder}/{name}/two", 1, world)
        fit(config, f"{folder}/{name}/two", 2, world, start=f"{folder}/{name}/one/step=1.ckpt")
    torch.distributed.destroy_process_group()


def close(actual, expected):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            close(actual[name], value)
    elif isinstance(expected, torch.Tensor):
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)
        assert type(actual) is type(expected)


@pytest.mark.slow
def test_two_processes_train_as_one(model_config, conformer_config, processes, tmp_path):
    configs = {"ours": model_config(**EXACT), "conformer": conformer_config(**CONFORMER)}
    for name, config in configs.items():
        config.optim.eps = 1e-3
        fit(config, tmp_path / name / "one", 2)
    processes(work, 2, {name: OmegaConf.to_container(config) for name, config in configs.items()}, str(tmp_path))
    for name in configs:
        for step in (1, 2):
            one, two = (
                torch.load(tmp_path / name / kind / f"step={step}.ckpt", weights_only=False) for kind in ("one", "two")
            )
            close(two["state_dict"], one["state_dict"])
            close(two["optimizer_states"][0]["state"], one["optimizer_states"][0]["state"])
        [archive] = (tmp_path / name / "two").glob("*.nemo")
        close(EncDecCTCModel.restore_from(str(archive)).state_dict(), two["state_dict"])


def test_a_configuration_names_it():
    callback = {"_target_": "sigmel.hosts.nemo.ExpertParallel", "size": 2}
    [made] = resolve_trainer_cfg(OmegaConf.create({"callbacks": [callback]}))["callbacks"]
    assert isinstance(made, ExpertParallel)
    assert made.size == 2


def test_what_cannot_be_is_refused(model_config, trainer):
    training = trainer(callbacks=[ExpertParallel()])
    with pytest.raises(SigmelError, match="strategy is SingleDeviceStrategy; set strategy: ddp"):
        training.fit(EncDecCTCModel(cfg=model_config(), trainer=training))


def test_a_gradient_scaler_is_refused(model_config):
    training = Trainer(accelerator="cpu", strategy="ddp", devices=1, precision="16-mixed", logger=False)
    training.precision_plugin.scaler = torch.amp.GradScaler("cpu")  # which Lightning makes on a GPU only
    with pytest.raises(SigmelError, match="16-mixed scales gradients; take bf16-mixed"):
        ExpertParallel().setup(training, EncDecCTCModel(cfg=model_config()), "fit")


@pytest.mark.parametrize("option", ["save_weights_only", "always_save_nemo"])
def test_no_file_may_hold_a_part_of_the_experts(option, model_config, tmp_path):
    saving = NeMoModelCheckpoint(dirpath=tmp_path, **{option: True})
    training = Trainer(
        accelerator="cpu", strategy="ddp", devices=1, callbacks=[ExpertParallel(), saving], logger=False
    )
    with pytest.raises(SigmelError, match=f"{option}: true"):
        ExpertParallel().setup(training, EncDecCTCModel(cfg=model_config()), "fit")
