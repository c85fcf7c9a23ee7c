"""What ESPnet does with an encoder works with ours: statistics, training, averaging, inference, archives, DDP."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.bin import asr_inference, pack
from espnet2.tasks.asr import ASRTask

from sigmel.decoding import build
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.lexicon import Lexicon

SIGMEL_ESPNET = str(Path(sys.executable).with_name("sigmel-espnet"))
DECODING = ["--beam_size", "2", "--ctc_weight", "1.0", "--lm_weight", "0.0", "--ngpu", "0"]


@pytest.fixture(scope="session")
def options(corpus):
    """What every training command has in common."""
    config = {
        "frontend": "log_mel",
        "frontend_conf": {"fs": "16k", "features": 16},
        "normalize": None,
        "encoder": "omni_router",
        "encoder_conf": {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32, "subsampling": "stack"},
        "decoder": None,
        "model": "sigmel_asr",
        "model_conf": {"ctc_weight": 1.0},
        "optim": "adamw",
        "optim_conf": {"lr": 0.002},
        "best_model_criterion": [["valid", "loss", "min"]],
        "keep_nbest_models": 2,
        "max_epoch": 2,
        "num_att_plot": 0,
        "batch_type": "sorted",
        "batch_size": 4,
        "use_tensorboard": False,
        "token_type": "word",
    }
    (corpus / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", corpus / "train.yaml", "--token_list", corpus / "tokens.txt", "--ngpu", "0"]
    for part in ("train", "valid"):
        options += [f"--{part}_data_path_and_name_and_type", f"{corpus}/wav.scp,speech,sound"]
        options += [f"--{part}_data_path_and_name_and_type", f"{corpus}/text,text,text"]
    return [str(option) for option in options]


def shapes(stats):
    return [
        option
        for part in ("train", "valid")
        for name in ("speech_shape", "text_shape")
        for option in (f"--{part}_shape_file", f"{stats}/{part}/{name}")
    ]


@pytest.fixture(scope="session")
def stats(corpus, options):
    """The folder of `--collect_stats`."""
    scp = ["--train_shape_file", f"{corpus}/wav.scp", "--valid_shape_file", f"{corpus}/wav.scp"]
    ASRTask.main(cmd=[*options, *scp, "--collect_stats", "true", "--output_dir", str(corpus / "stats")])
    return corpus / "stats"


@pytest.fixture(scope="session")
def experiment(corpus, options, stats):
    """The folder of a trained model."""
    ASRTask.main(cmd=[*options, *shapes(stats), "--output_dir", str(corpus / "exp")])
    return corpus / "exp"


def test_statistics(stats):
    assert len((stats / "train/speech_shape").read_text().splitlines()) == 8
    assert (stats / "train/feats_stats.npz").exists()


def test_training_averages_and_reports_routing(experiment):
    assert (experiment / "valid.loss.ave_2best.pth").exists()
    checkpoint = torch.load(experiment / "checkpoint.pth", weights_only=False)
    epoch = checkpoint["reporter"]["stats"][2]
    assert epoch["train"]["aux_loss"] > 0
    assert epoch["train"]["loss"] == pytest.approx(epoch["train"]["loss_ctc"] + epoch["train"]["aux_loss"], rel=1e-4)
    assert 0.25 <= epoch["valid"]["routing_load"] <= 1


def test_an_archive_decodes_the_same_in_a_fresh_process(corpus, experiment):
    model = ["--asr_train_config", f"{experiment}/config.yaml", "--asr_model_file", f"{experiment}/valid.loss.ave.pth"]
    data = ["--data_path_and_name_and_type", f"{corpus}/wav.scp,speech,sound"]
    asr_inference.main(cmd=[*model, *data, *DECODING, "--output_dir", str(corpus / "here")])
    pack.main(cmd=["asr", *model, "--outpath", str(corpus / "model.zip")])
    with zipfile.ZipFile(corpus / "model.zip") as archive:
        archive.extractall(corpus / "unpacked")
    (config,) = (corpus / "unpacked").rglob("config.yaml")
    (weights,) = (corpus / "unpacked").rglob("*.pth")
    model = ["--asr_train_config", str(config), "--asr_model_file", str(weights)]
    command = [SIGMEL_ESPNET, "asr_inference", *model, *data, *DECODING, "--output_dir", str(corpus / "there")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here, there = ((corpus / place / "1best_recog/score").read_text() for place in ("here", "there"))
    assert here == there
    assert len(here.splitlines()) == 8


def test_a_graph_is_followed(corpus, experiment, tmp_path):
    tokens = tuple((corpus / "tokens.txt").read_text().split())
    lexicon = Lexicon({"LOW": ((2,),), "MID": ((3,),)})
    build(tokens, 0, lexicon, parse_grammar("<x> = LOW MID | MID LOW | LOW;")).save(tmp_path / "HLG.npz")
    model = ["--asr_train_config", f"{experiment}/config.yaml", "--asr_model_file", f"{experiment}/valid.loss.ave.pth"]
    data = ["--data_path_and_name_and_type", f"{corpus}/wav.scp,speech,sound", "--output_dir", str(tmp_path / "out")]
    command = [
        SIGMEL_ESPNET,
        "asr_inference_graph",
        *model,
        *data,
        "--graph",
        str(tmp_path / "HLG.npz"),
        "--nbest",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for rank, count in ((1, 8), (2, 8)):
        lines = (tmp_path / f"out/{rank}best_recog/text").read_text().splitlines()
        assert len(lines) == count
        assert {line.partition(" ")[2] for line in lines} <= {"LOW", "LOW MID", "MID LOW"}
    scores = [(tmp_path / f"out/{rank}best_recog/score").read_text().split()[1::2] for rank in (1, 2)]
    assert all(float(best) >= float(other) for best, other in zip(*scores, strict=True))
    spelled = (tmp_path / "out/1best_recog/token").read_text()
    assert set(" ".join(line.partition(" ")[2] for line in spelled.splitlines()).split()) <= {"low", "mid"}

    build(tokens[:-1], 0, lexicon).save(tmp_path / "HLG.npz")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "the graph was made for 5 tokens, the model has 6" in done.stderr


def test_two_processes_train_as_one(corpus, options, stats):
    """gloo and DDP, each process started as a launcher does."""
    command = [SIGMEL_ESPNET, "asr_train", *options, *shapes(stats), "--max_epoch", "1", "--dist_backend", "gloo"]
    command += [
        "--dist_world_size",
        "2",
        "--multiprocessing_distributed",
        "false",
        "--output_dir",
        str(corpus / "ddp"),
    ]
    workers = [
        subprocess.Popen(
            [*command, "--dist_rank", str(rank), "--dist_init_method", f"file://{corpus}/rendezvous"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
    assert ":0/2]" in outputs[0]  # the rank and the number of processes, in the log of the first
    assert (corpus / "ddp/valid.loss.best.pth").exists()
