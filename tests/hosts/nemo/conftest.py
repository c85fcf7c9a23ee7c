"""A corpus of noise, and the configurations of small models for it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch import Trainer
from nemo.collections.asr import models
from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
from omegaconf import DictConfig, OmegaConf

import sigmel.hosts.nemo  # noqa: F401

OMNI = {
    "_target_": "sigmel.hosts.nemo.OmniRouterEncoder",
    "feat_in": 80,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 2,
    "conv_kernel": 5,
    "subsampling_channels": 4,
    "experts": 3,
}
CONFORMER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 80,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 2,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": 4,
}
TEXTS = ["one two three", "four five", "six seven eight nine", "ten"]
CLASSES = {
    "ctc": models.EncDecCTCModel,
    "ctc_bpe": models.EncDecCTCModelBPE,
    "hybrid_bpe": models.EncDecHybridRNNTCTCBPEModel,
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A manifest of four utterances of noise, their files, and a SentencePiece tokenizer of their texts."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    files, rows = [], []
    for i, text in enumerate(TEXTS):
        seconds = 0.8 + 0.3 * i
        files.append(str(folder / f"{i}.wav"))
        soundfile.write(files[-1], 0.1 * random.standard_normal(int(16000 * seconds)), 16000)
        rows.append({"audio_filepath": files[-1], "duration": seconds, "text": text})
    manifest = folder / "train.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "text.txt").write_text("\n".join(TEXTS * 5))
    create_spt_model(str(folder / "text.txt"), 30, -1, False, output_dir=str(folder / "tokenizer"))
    return SimpleNamespace(manifest=str(manifest), files=files, tokenizer=str(folder / "tokenizer"))


@pytest.fixture(scope="session")
def model_config(corpus):
    """Function of a kind ("ctc", "ctc_bpe", "hybrid_bpe") and an encoder's configuration: that of a whole model."""

    def make(kind: str = "ctc", **encoder) -> DictConfig:
        data = {"manifest_filepath": corpus.manifest, "sample_rate": 16000, "batch_size": 2, "num_workers": 0}
        ctc = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": None, "num_classes": -1}
        ctc["vocabulary"] = sorted(set("".join(TEXTS))) if kind == "ctc" else []
        config = {
            "sample_rate": 16000,
            "train_ds": {**data, "shuffle": False},
            "validation_ds": {**data, "shuffle": False},
            "preprocessor": {
                "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
                "features": 80,
                "window_stride": 0.01,
                "normalize": "NA",
                "dither": 0.0,
                "pad_to": 0,
            },
            "encoder": {**OMNI, **encoder},
            "optim": {"name": "adamw", "lr": 1e-3},
        }
        if kind == "ctc":
            config["train_ds"]["labels"] = config["validation_ds"]["labels"] = ctc["vocabulary"]
        else:
            config["tokenizer"] = {"dir": corpus.tokenizer, "type": "bpe"}
        if kind != "hybrid_bpe":
            return OmegaConf.create(config | {"decoder": ctc})
        joint = {"joint_hidden": 32, "activation": "relu", "dropout": 0.0}
        return OmegaConf.create(
            config
            | {
                "model_defaults": {"enc_hidden": 32, "pred_hidden": 32},
                "decoder": {
                    "_target_": "nemo.collections.asr.modules.RNNTDecoder",
                    "normalization_mode": None,
                    "random_state_sampling": False,
                    "blank_as_pad": True,
                    "prednet": {"pred_hidden": 32, "pred_rnn_layers": 1, "dropout": 0.0},
                },
                "joint": {
                    "_target_": "nemo.collections.asr.modules.RNNTJoint",
                    "log_softmax": None,
                    "preserve_memory": False,
                    "fuse_loss_wer": False,
                    "jointnet": joint,
                },
                "aux_ctc": {"ctc_loss_weight": 0.3, "decoder": ctc},
                "loss": {"loss_name": "default"},
                "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 3}},
            }
        )

    return make


@pytest.fixture(scope="session")
def build_model(model_config):
    """Function of a kind: a stock model with random weights, always the same."""

    def make(kind: str):
        torch.manual_seed(0)
        return CLASSES[kind](cfg=model_config(kind)).eval()

    return make


@pytest.fixture(scope="session")
def conformer_config(model_config):
    """Function of options of NeMo's own Conformer: the configuration of a CTC model that has one."""

    def make(**options) -> DictConfig:
        config = model_config()
        config.encoder = {**CONFORMER, **options}
        return config

    return make


@pytest.fixture(scope="session")
def trainer():
    """Function that makes a Trainer of so many steps on the CPU, without files or output."""

    def make(steps: int = 2, **options) -> Trainer:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        return Trainer(accelerator="cpu", max_steps=steps, use_distributed_sampler=False, **quiet, **options)

    return make


@pytest.fixture(scope="session", params=CLASSES)
def trained(request, model_config, trainer, tmp_path_factory):
    """A stock model of each kind after two steps, its kind, and the .nemo file it was saved to."""
    training = trainer()
    model = CLASSES[request.param](cfg=model_config(request.param), trainer=training)
    training.fit(model)
    path = tmp_path_factory.mktemp(request.param) / "model.nemo"
    model.save_to(str(path))
    return SimpleNamespace(model=model.eval(), kind=request.param, path=str(path))
