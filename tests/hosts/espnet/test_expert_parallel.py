"""Expert parallelism in ESPnet's own loop: two processes train as one, and go on from each other's checkpoints."""

import os
import shutil

import pytest
import torch
import yaml

from sigmel.errors import SigmelError
from sigmel.hosts.espnet.expert_parallel import REFUSED, ExpertParallelASRTask, ExpertParallelTrainer


@pytest.fixture
def options(corpus, tmp_path):
    config = {
        "frontend": "log_mel",
        "frontend_conf": {"fs": "16k", "features": 16, "dither": 0.0},
        "normalize": None,
        "encoder": "omni_router",
        "encoder_conf": {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32, "subsampling": "stack"},
        "decoder": None,
        "model": "sigmel_asr",
        "model_conf": {"ctc_weight": 1.0},
        "optim": "adamw",
        "optim_conf": {"lr": 0.002, "eps": 0.001},
        "grad_clip": 0.1,
        "best_model_criterion": [["valid", "loss", "min"]],
        "num_att_plot": 0,
        "batch_type": "unsorted",
        "batch_size": 4,
        "num_workers": 0,
        "use_tensorboard": False,
        "use_matplotlib": False,
        "token_type": "word",
    }
    config["encoder_conf"] |= {"dropout": 0.0, "jitter": 0.0, "top_k": 2, "load_balance_weight": 0.1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", tmp_path / "train.yaml", "--token_list", corpus / "tokens.txt", "--ngpu", "0"]
    for part in ("train", "valid"):
        options += [f"--{part}_data_path_and_name_and_type", f"{corpus}/wav.scp,speech,sound"]
        options += [f"--{part}_data_path_and_name_and_type", f"{corpus}/text,text,text"]
        options += [f"--{part}_shape_file", f"{corpus}/wav.scp"]
    return [str(option) for option in options]


class Watch(ExpertParallelTrainer):
    """There is something to test: the experts are spread."""

    @classmethod
    def validate_one_epoch(cls, *, model, **others):
        for block in model.module.encoder.core.blocks:
            assert len(block.feed_forward.w1.to_local()) == 2
        super().validate_one_epoch(model=model, **others)


class WatchedTask(ExpertParallelASRTask):
    trainer = Watch


def train(options, folder, epochs, task=ExpertParallelASRTask):
    task.main(cmd=[*options, "--output_dir", str(folder), "--max_epoch", str(epochs)])


def work(rank, world, store, options, tmp_path):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    options = [*options, "--dist_backend", "gloo", "--multiprocessing_distributed", "false", "--expert_parallel", "2"]
    for folder, epochs in (("two", 1), ("resumed", 2)):
        train([*options, "--dist_init_method", f"file://{store}_{folder}"], tmp_path / folder, epochs, WatchedTask)
        torch.distributed.destroy_process_group()


def close(actual, expected):
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            close(actual[name], value)
    elif isinstance(expected, torch.Tensor):
        assert type(actual) is type(expected)
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one(options, processes, tmp_path):
    train(options, tmp_path / "one", 1)
    shutil.copytree(tmp_path / "one", tmp_path / "resumed", symlinks=True)
    first = torch.load(tmp_path / "one/checkpoint.pth", weights_only=False)
    train([*options, "--resume", "true"], tmp_path / "one", 2)
    processes(work, 2, [*options, "--resume", "true"], tmp_path)
    for expected, folder in ((first, "two"), ("one", "resumed")):
        if isinstance(expected, str):
            expected = torch.load(tmp_path / expected / "checkpoint.pth", weights_only=False)
        actual = torch.load(tmp_path / folder / "checkpoint.pth", weights_only=False)
        close(actual["model"], expected["model"])
        close(actual["optimizers"][0]["state"], expected["optimizers"][0]["state"])
        for epoch, parts in expected["reporter"]["stats"].items():
            for part, names in (
                ("train", ("loss", "loss_ctc", "aux_loss", "grad_norm", "clip")),
                ("valid", ("loss",)),
            ):
                for name in names:
                    ours, theirs = (x["reporter"]["stats"][epoch][part][name] for x in (actual, expected))
                    assert float(ours) == pytest.approx(float(theirs), rel=1e-3), name
            assert float(parts["train"]["clip"]) == 100  # of the steps
    weights = torch.load(tmp_path / "resumed/valid.loss.ave.pth")
    assert weights["encoder.core.blocks.0.feed_forward.w1"].shape == (4, 32, 16)


def test_there_must_be_processes(options, tmp_path):
    with pytest.raises(SigmelError, match="there is no process group"):
        train([*options, "--expert_parallel", "2"], tmp_path, 1)


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_is_refused(option, options, tmp_path):
    with pytest.raises(SigmelError, match=f"set {option}: "):
        train([*options, "--expert_parallel", "2", f"--{option}", "1"], tmp_path, 1)
