"""Training and transcription for recipes: checks before training, resuming, bad audio, bad models."""

import json
import re
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from nemo.core import ModelPT
from omegaconf import OmegaConf

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.hosts.nemo.restore import load_model
from sigmel.recipes.nemo import train


@pytest.fixture
def config(model_config, tmp_path):
    """A configuration of four steps over four utterances of noise."""
    model = model_config("ctc_bpe")
    model.train_ds.shuffle = True
    recipe = {"exp_dir": str(tmp_path / "exp"), "log_every": 1, "checkpoint_every": 1, "average_last": 2}
    trainer = {"accelerator": "cpu", "max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    return OmegaConf.create({"recipe": recipe, "trainer": trainer, "model": model})


def verb(config, *overrides):
    """The exit status of `sigmel train` with this configuration."""
    exp = Path(config.recipe.exp_dir)
    OmegaConf.save(config, exp.with_name("mine.yaml"))
    data = [config.model[part].manifest_filepath for part in ("train_ds", "validation_ds")]
    command = ["train", "--host", "nemo", "--config", str(exp.with_name("mine.yaml")), "--output", str(exp)]
    command += ["--tokenizer", config.model.tokenizer.dir, "--train", data[0], "--valid", data[1]]
    return main([*command, "--", *overrides])


def _manifest(config, tmp_path, change):
    """Give the training set a copy of its manifest, changed row by row."""
    rows = [json.loads(line) for line in Path(config.model.train_ds.manifest_filepath).read_text().splitlines()]
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps(change(number, row)) + "\n" for number, row in enumerate(rows)))
    config.model.train_ds.manifest_filepath = str(changed)


def test_a_run_killed_half_way_goes_on_where_it_stopped(config, monkeypatch):
    exp = Path(config.recipe.exp_dir)
    record = train.Progress._record

    def die(self, step, **values):
        if step == 3:
            raise KeyboardInterrupt
        record(self, step, **values)

    monkeypatch.setattr(train.Progress, "_record", die)
    with pytest.raises(SystemExit) as ended:
        train.train(config)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on
    assert ended.value.code == 130
    assert not (exp / "model.nemo").exists()
    assert not (exp / "train.json").exists()

    steps = []

    def note(self, step, **values):
        steps.extend([step] if "train_loss" in values else [])
        record(self, step, **values)

    monkeypatch.setattr(train.Progress, "_record", note)
    train.train(config)
    assert steps == [3, 4]  # 1 and 2 were not repeated
    facts = json.loads((exp / "train.json").read_text())
    assert facts["steps"] == 4
    assert facts["params_total"] > facts["params_active"] > 0
    rows = [line.split(",") for line in (exp / "metrics.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["step", "1", "2", "3", "4"]
    assert all(float(row[rows[0].index("attention_norm")]) > 0 for row in rows[1:])
    seconds = [float(row[1]) for row in rows[1:]]
    assert seconds == sorted(seconds)
    assert not (exp / "checkpoints").exists()
    assert load_model(exp / "model.nemo", ModelPT).encoder.core.routers


def test_one_seed_gives_one_model(config, tmp_path):
    found = []
    for name in ("first", "second"):
        config.recipe.exp_dir = str(tmp_path / name)
        train.train(config.copy())
        found.append(load_model(tmp_path / name / "model.nemo", ModelPT).state_dict())
    assert all(torch.equal(value, found[1][key]) for key, value in found[0].items())
    config.recipe.exp_dir, config.recipe.seed = str(tmp_path / "third"), 2
    train.train(config)
    other = load_model(tmp_path / "third/model.nemo", ModelPT).state_dict()
    assert not all(torch.equal(value, other[key]) for key, value in found[0].items())


def test_a_checkpoint_that_does_not_fit_is_named(config, tmp_path):
    checkpoint, settings = tmp_path / "epoch=0-step=2.ckpt", tmp_path / "config.yaml"
    settings.write_text(OmegaConf.to_yaml(config))
    torch.save({"state_dict": {}}, checkpoint)
    train.check_resumable(checkpoint, config, settings)
    checkpoint.write_bytes(checkpoint.read_bytes()[:99])
    with pytest.raises(SigmelError, match=r"step=2\.ckpt: a damaged checkpoint"):
        train.check_resumable(checkpoint, config, settings)
    config.recipe.seed = 2
    with pytest.raises(SigmelError, match="begun with other settings"):
        train.check_resumable(checkpoint, config, settings)


def test_averaging_is_the_mean_of_the_weights(tmp_path):
    models = [torch.nn.BatchNorm1d(3) for _ in range(3)]
    for value, model in enumerate(models):
        torch.nn.init.constant_(model.weight, value)
        torch.save({"state_dict": model.state_dict()}, tmp_path / f"{value}.ckpt")
    train.average(models[2], [tmp_path / "0.ckpt", tmp_path / "1.ckpt"])
    assert models[2].weight.tolist() == [1.0, 1.0, 1.0]
    assert models[2].num_batches_tracked.item() == 0


def test_transcripts_longer_than_their_audio_are_left_out_and_listed(config, tmp_path):
    _manifest(config, tmp_path, lambda n, row: row | {"text": "one two three " * 20} if n == 1 else row)
    train.check_manifest("train", config.model.train_ds, config.model, tmp_path)
    kept = Path(config.model.train_ds.manifest_filepath).read_text().splitlines()
    skipped = [json.loads(line) for line in (tmp_path / "train.skipped.jsonl").read_text().splitlines()]
    assert len(kept) == 3
    assert [row["id"] for row in skipped] == ["1"]
    assert "longer than the audio" in skipped[0]["reason"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n, row: row | {"text": "three ÿ"} if n == 2 else row, r"changed\.jsonl: 2: .*ÿ"),
        (lambda n, row: row | {"text": ""}, "no utterance to learn from.*4.*empty"),
        (lambda n, row: row | {"audio_filepath": "nowhere.wav"}, r"no utterance.*nowhere\.wav"),
    ],
)
def test_bad_manifests_are_named(config, tmp_path, change, message):
    _manifest(config, tmp_path, change)
    with pytest.raises(SigmelError, match=message):
        train.train(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("recipe.sede", 3, "sede"),
        ("recipe.average_last", 0, "recipe.average_last: 0"),
        ("trainer.max_stepz", 3, "max_stepz"),
        ("model.encoder.expertz", 3, "expertz"),
        ("model.target", "nemo.no_such.Model", r"model\.target: .*no_such"),
        ("model.encoder.experts", 1, "experts: 1"),
        ("model.encoder.top_k", 9, "top_k: 9"),
        ("model.encoder.routing", "path:3", "path:3"),
        ("model.tokenizer.dir", "nowhere", "nowhere.*no such file"),
        ("model.train_ds.manifest_filepath", "nowhere.jsonl", r"nowhere\.jsonl: no such"),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(config, capsys, key, value, message):
    OmegaConf.update(config, key, value, force_add=True)
    assert verb(config) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(f"error: .*{message}", error)


def test_fused_optimizers_train_in_bfloat16_with_clipped_gradients(config):
    config.trainer.update({"precision": "bf16-mixed", "gradient_clip_val": 1.0})
    config.model.optim = {"name": "adamw", "lr": 1e-3, "fused": True}
    train.train(config)
    assert Path(config.recipe.exp_dir, "model.nemo").exists()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A manifest of usable and unusable audio."""
    folder = tmp_path_factory.mktemp("sounds")
    noise = np.random.default_rng(0).standard_normal(48000).astype(np.float32) / 10
    contents = {
        "good": (noise[:16000], 16000),
        "other_rate": (noise[:8000], 8000),
        "stereo": (noise.reshape(-1, 2)[:16000], 48000),
        "silent": (np.zeros(16000, np.float32), 16000),
        "one_sample": (noise[:1], 16000),
        "nan": (np.full(16000, np.nan, np.float32), 16000),
    }
    for name, (samples, rate) in contents.items():
        soundfile.write(folder / f"{name}.wav", samples, rate, subtype="FLOAT")
    rows = [
        {"id": name, "audio_filepath": f"{name}.wav", "duration": 1 - n / 100, "text": "one"}
        for n, name in enumerate([*contents, "missing"])
    ]
    (folder / "sounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "sounds.jsonl"


@pytest.mark.parametrize("trained", ["ctc_bpe"], indirect=True)
def test_what_cannot_be_heard_is_listed_and_transcribed_as_nothing(trained, sounds, tmp_path, capsys):
    options = ["--output", str(tmp_path / "decode"), "--batch-size", "2", "--routing-stats"]
    assert main(["transcribe", trained.path, str(sounds), *options]) == 1
    assert "3 without usable audio" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "decode/sounds.jsonl").read_text().splitlines()]
    names = ["good", "other_rate", "stereo", "silent", "one_sample", "nan", "missing"]
    assert [row["id"] for row in rows] == names
    assert [row["pred_text"] for row in rows[4:]] == ["", "", ""]
    skipped = [json.loads(line) for line in (tmp_path / "decode/sounds.skipped.jsonl").read_text().splitlines()]
    assert {row["id"] for row in skipped} == {"one_sample", "nan", "missing"}
    timing = json.loads((tmp_path / "decode/sounds.timing.json").read_text())
    assert timing["rtfx"] == pytest.approx(timing["audio_seconds"] / timing["seconds"], rel=0.1)
    assert timing["audio_seconds"] == pytest.approx(1 + 1 + 1 / 3 + 1, abs=0.01)
    routing = json.loads((tmp_path / "decode/sounds.routing.json").read_text())
    assert routing["utterance"]["id"] == "good"
    assert len(routing["utterance"]["experts"]) == len(routing["layers"]) == 2
    assert len(routing["utterance"]["experts"][0]) * routing["utterance"]["frame_seconds"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("trained", ["ctc_bpe"], indirect=True)
def test_a_transcript_does_not_depend_on_its_batch(trained, corpus, tmp_path):
    texts = []
    for batch_size in (1, 4):
        output = tmp_path / str(batch_size)
        options = ["--output", str(output), "--batch-size", str(batch_size)]
        assert main(["transcribe", trained.path, corpus.manifest, *options]) == 0
        texts.append([json.loads(line)["pred_text"] for line in (output / "train.jsonl").read_text().splitlines()])
    assert texts[0] == texts[1]


def test_models_that_are_none_are_named(tmp_path):
    with pytest.raises(SigmelError, match="no such model"):
        load_model(tmp_path / "absent.nemo", ModelPT)
    (tmp_path / "corrupt.nemo").write_bytes(b"not a tar file")
    with pytest.raises(SigmelError, match=r"corrupt\.nemo: not a NeMo model"):
        load_model(tmp_path / "corrupt.nemo", ModelPT)
    with tarfile.open(tmp_path / "foreign.nemo", "w") as archive:
        archive.add(tmp_path / "corrupt.nemo", "anything")
    with pytest.raises(SigmelError, match=r"foreign\.nemo: not a NeMo model"):
        load_model(tmp_path / "foreign.nemo", ModelPT)
