"""ESPnet3's own route: a recogniser with our encoder, from manifests to error rates and a bundle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from espnet3.contract.stages import roles, stage_names
from espnet3.utils.config_utils import load_and_merge_config

from sigmel import SigmelError
from sigmel.hosts import espnet3
from sigmel.hosts.espnet3 import manifest

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf/espnet3/omni_router_ctc_tiny_2300k_1300kactive.yaml"


@pytest.fixture
def recipe(corpus, tmp_path):
    """A recipe's folder: a manifest of tones and the configurations of each role."""
    texts = dict(line.split(maxsplit=1) for line in (corpus / "text").read_text().splitlines())
    rows = [{"audio_filepath": f"{corpus}/{name}.wav", "duration": 0.3, "text": text} for name, text in texts.items()]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    test_set = {
        "name": "tones",
        "data_src": "sigmel.hosts.espnet3.manifest",
        "data_src_args": {"manifest": "some.jsonl"},
    }
    training = {
        "defaults": [str(CONF), "_self_"],
        "manifests": {"train": "some.jsonl", "valid": "some.jsonl"},
        "tokenizer": {"model_type": "word", "vocab_size": 6},
        "model": {"encoder_conf": {"d_model": 32, "num_layers": 2, "num_heads": 2, "ff_size": 32, "experts": 2}},
        "optimizer": {"lr": 0.005},
        "scheduler": {"warmup_steps": 20},
        "best_model_criterion": [["valid/loss", 1, "min"]],
        "dataloader": {"train": {"iter_factory": {"batches": {"batch_size": 4}}}},
        "trainer": {"max_epochs": 80, "check_val_every_n_epoch": 40},
    }
    inference = {"dataset": {"test": [test_set]}, "model": {"asr_model_file": "${exp_dir}/valid.loss.ave_1best.pth"}}
    configurations = {"training": training, "inference": inference, "metrics": {}, "publication": {}}
    for role, configuration in configurations.items():
        (tmp_path / f"{role}.yaml").write_text(yaml.safe_dump(configuration))
    return tmp_path


def run(recipe, *stages, way=("sigmel.cli", "espnet3")):
    command = [sys.executable, "-m", *way, "--stages", *stages]
    for role in ("training", "inference", "metrics", "publication"):
        command += [f"--{role}_config", f"{role}.yaml"]
    return subprocess.run(command, cwd=recipe, capture_output=True, text=True)


def test_from_manifests_to_error_rates_and_a_bundle(recipe):
    done = run(
        recipe,
        "create_dataset",
        "train_tokenizer",
        "collect_stats",
        "train",
        "infer",
        "measure",
        "routing",
        "pack_model",
    )
    assert done.returncode == 0, done.stderr
    results = recipe / "exp/training/inference"
    recognised = dict(line.split(maxsplit=1) for line in (results / "tones/text.scp").read_text().splitlines())
    spoken = [json.loads(line)["text"] for line in (recipe / "some.jsonl").read_text().splitlines()]
    assert [recognised[str(n)] for n in range(8)] == spoken  # workers, which Dask spawned, knew our encoder
    metrics = json.loads((results / "metrics.json").read_text())
    assert all(score == 0 for sets in metrics.values() for scores in sets.values() for score in scores.values())
    routing = json.loads((results / "tones/routing.json").read_text())
    assert [sum(layer["load"]) for layer in routing["layers"]] == pytest.approx([1.0, 1.0])
    assert (results / "tones/routing.png").stat().st_size > 1000
    config = yaml.safe_load((recipe / "exp/training/config.yaml").read_text())
    assert (config["encoder"], config["encoder_conf"]["experts"]) == ("omni_router", 2)
    assert (recipe / "exp/training/model_pack/meta.yaml").exists()


def test_a_configuration_without_its_manifests_says_so(recipe):
    (recipe / "training.yaml").write_text(yaml.safe_dump({"defaults": [str(CONF), "_self_"]}))
    done = run(recipe, "train_tokenizer", way=["sigmel.hosts.espnet3"])
    assert done.returncode != 0
    assert "manifests.train or manifests.valid is not set; give the path of a manifest" in done.stderr


def test_every_role_of_the_system_has_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("{}")
    for role in roles(espnet3.ASRSystem):
        load_and_merge_config(tmp_path / "mine.yaml", f"{role}.yaml", "sigmel.hosts.espnet3", resolve=False)
    assert "routing" in stage_names(espnet3.ASRSystem)


def test_the_task_has_our_classes_among_its_choices():
    choices = {choice.name: choice.choices() for choice in espnet3.ASRTask.class_choices_list}
    assert "omni_router" in choices["encoder"]
    assert "log_mel" in choices["frontend"]
    assert "sigmel_asr" in choices["model"]


def test_the_data_is_the_manifests(recipe, corpus):
    (recipe / "some.jsonl").write_text(
        json.dumps({"audio_filepath": f"{corpus}/u1.wav", "duration": 0.6, "text": "low mid"}) + "\n"
    )
    dataset = manifest.Dataset(recipe / "some.jsonl", sample_rate=8000)
    assert len(dataset) == 1
    assert dataset[0]["text"] == "low mid"
    assert dataset[0]["speech"].shape == (4800,)  # twice 0.3 s
    assert manifest.texts(recipe / "some.jsonl") == ["low mid"]
    with pytest.raises(SigmelError, match=r"none\.jsonl: no such manifest"):
        manifest.Dataset(recipe / "none.jsonl")
