"""The recipe's commands: from manifests to an archive, and from an archive to transcripts."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from sigmel.cli import main
from sigmel.decoding import build
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.tokens import read_tokens
from sigmel.recipes.espnet import train
from sigmel.tokens.text import train_tokenizer

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf/espnet/omni_router_ctc_tiny_2300k_1300kactive.yaml"


@pytest.fixture
def folder(corpus, tmp_path, monkeypatch):
    """A working folder with a manifest, a tokenizer and a configuration on top of conf/espnet."""
    monkeypatch.chdir(tmp_path)
    texts = dict(line.split(maxsplit=1) for line in (corpus / "text").read_text().splitlines())
    rows = [
        {"id": name, "audio_filepath": f"{corpus}/{name}.wav", "duration": 0.3 * len(text.split()), "text": text}
        for name, text in texts.items()
    ]
    Path("some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer(texts.values(), Path("tokenizer"), "word")
    encoder = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32}
    settings = {"encoder_conf": encoder, "max_epoch": 2, "keep_nbest_models": 2, "use_tensorboard": False}
    Path("nano.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def training(*options):
    """The exit status of `sigmel train`."""
    files = ["--tokenizer", "tokenizer", "--train", "some.jsonl", "--valid", "some.jsonl"]
    configs = ["--config", str(CONF), "--config", "nano.yaml"]
    return main(["train", "--host", "espnet", *configs, "--output", "exp", *files, *options])


def change(number, **fields):
    rows = [json.loads(line) for line in Path("some.jsonl").read_text().splitlines()]
    rows[number] |= fields
    Path("some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_from_manifests_to_transcripts(folder):
    change(3, text="")
    assert training("--set", "routing=path:2", "--", "--batch_size", "2") == 0
    facts = json.loads(Path("exp/train.json").read_text())
    assert (facts["steps"], facts["params_total"] > facts["params_active"]) == (6, True)
    header, *rows = Path("exp/metrics.csv").read_text().splitlines()
    assert header.startswith("step,seconds,train_loss,aux_loss,attention_norm")
    assert [row.split(",")[0] for row in rows] == ["3", "6"]
    assert len(Path("exp/train.skipped.jsonl").read_text().splitlines()) == 1
    config = yaml.safe_load(Path("exp/espnet/config.yaml").read_text())
    assert (config["encoder_conf"]["routing"], config["encoder_conf"]["subsampling"]) == ("path:2", "stack")
    assert "exp/espnet/config.yaml" in zipfile.ZipFile("exp/model.zip").namelist()

    change(5, audio_filepath="nowhere.wav")
    decoding = ["transcribe", "exp/model.zip", "some.jsonl", "--routing-stats", "--output"]
    assert main([*decoding, "exp/decode"]) == 1
    decoded = [json.loads(line) for line in Path("exp/decode/some.jsonl").read_text().splitlines()]
    assert [row["id"] for row in decoded] == [f"u{n}" for n in range(8)]
    assert all(isinstance(row["pred_text"], str) for row in decoded)
    (skipped,) = (json.loads(line) for line in Path("exp/decode/some.skipped.jsonl").read_text().splitlines())
    assert skipped["id"] == "u5"
    assert "no such file" in skipped["reason"]
    assert decoded[5]["pred_text"] == ""
    assert json.loads(Path("exp/decode/some.timing.json").read_text())["rtfx"] > 0
    routing = json.loads(Path("exp/decode/some.routing.json").read_text())
    longest = max((row for row in decoded if row["id"] != "u5"), key=lambda row: row["duration"])
    assert routing["utterance"]["id"] == longest["id"]
    assert len(routing["utterance"]["experts"][0]) == pytest.approx(longest["duration"] / 0.04, abs=1)

    language = parse_grammar("<x> = low mid | mid low | low;")
    tokens = read_tokens(Path("exp/tokens.txt"), Path("tokenizer/tokenizer.model"))
    build(tokens.names, tokens.blank, tokens.lexicon(language.words), language).save(Path("exp/HLG.npz"))
    assert main([*decoding, "exp/decode_graph", "--graph", "exp/HLG.npz", "--timestamps"]) == 1
    rows = [json.loads(line) for line in Path("exp/decode_graph/some.jsonl").read_text().splitlines()]
    said = [row["pred_text"] for row in rows]
    assert all([word["word"] for word in row.get("words", [])] == row["pred_text"].split() for row in rows)
    assert set(said) <= {"low mid", "mid low", "low", ""}
    assert said.count("") == 1  # the utterance without audio


def test_the_tokens_are_blank_the_pieces_and_the_end(folder):
    tokens = train.token_list(Path("tokenizer"))
    assert (tokens[0], tokens[1], tokens[-1]) == ("<blank>", "<unk>", "<sos/eos>")
    assert set(tokens[2:-1]) == {"▁low", "▁mid", "▁high"}


@pytest.mark.slow
def test_run_sh_with_host_espnet(tmp_path):
    made = {"data", "exp", "downloads"}
    egs = shutil.copytree(ROOT / "egs", tmp_path / "egs", ignore=lambda _, names: made & set(names))
    recipe = egs / "espeak_commands/asr1"
    options = ["--host", "espnet", "--size", "nano", "--routing", "switch", "--stop_stage", "6"]
    command = [recipe / "run.sh", *options, "--python", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exp = recipe / "exp/espnet_nano_switch_seed1"
    rows = json.loads((exp / "results.json").read_text())
    assert {(row["host"], row["routing"], row["test_set"]) for row in rows} == {
        ("espnet", "switch", "test"),
        ("espnet", "switch", "test_ood"),
    }
    assert "| test | espnet nano switch | 1 |" in done.stdout
    plots = {plot.name for plot in (exp / "plots").iterdir()}
    assert plots >= {"training.png", "load_test.png", "experts_test.png"}


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "size"), [("asr2", "nano"), ("tts1", "nano_tts")])
def test_language_models_from_audio_to_a_model(recipe, size, tmp_path):
    made = {"data", "exp", "downloads"}
    egs = shutil.copytree(ROOT / "egs", tmp_path / "egs", ignore=lambda _, names: made & set(names))
    recordings, noise = tmp_path / "corpus/recordings", np.random.default_rng(0)
    recordings.mkdir(parents=True)
    for digit, take in itertools.product(range(10), range(9)):
        soundfile.write(recordings / f"{digit}_ann_{take}.wav", 0.1 * noise.standard_normal(2400), 8000)
    options = ["--size", size, "--speaker", "ann", "--stop_stage", "3", "--fsdd_dir", str(tmp_path / "corpus")]
    command = [egs / "fsdd" / recipe / "run.sh", "--python", sys.executable, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (exp,) = egs.glob(f"fsdd/rich1/exp/espnet_{size}_dense_seed1_speaker-ann_fsdd_dir-*")
    assert json.loads((exp / "train.json").read_text())["steps"] == 4
    assert zipfile.is_zipfile(exp / "model.zip")


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.ones(4800) * 0.1, 8000, r"odd\.wav: 8000 Hz and 1 channels, but the front end takes 16000 Hz and one"),
        (np.ones((4800, 2)) * 0.1, 16000, r"odd\.wav: 16000 Hz and 2 channels"),
    ],
)
def test_audio_that_does_not_fit_the_front_end_is_named(folder, samples, rate, message, capsys):
    soundfile.write("odd.wav", samples * np.sin(np.arange(4800)).reshape(-1, *[1] * (samples.ndim - 1)), rate)
    change(0, audio_filepath="odd.wav", text="low")
    assert training() == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "nowhere.yaml"], r"nowhere\.yaml: no such configuration"),
        (["--train", "nowhere.jsonl"], r"nowhere\.jsonl: no such manifest"),
        (["--tokenizer", "nowhere"], r"nowhere/tokenizer\.model: no such file"),
        (["--set", "experts=1"], "experts: 1 leaves nothing to route"),
    ],
)
def test_bad_settings_are_named(folder, options, message, capsys):
    assert training(*options) == 2
    assert re.search(message, capsys.readouterr().err)


def test_an_archive_of_something_else_is_named(folder, capsys):
    command = ["transcribe", "model.zip", "some.jsonl", "--output", "decode"]
    assert main(command) == 2
    assert "model.zip: no such model; train one first" in capsys.readouterr().err
    Path("model.zip").write_text("something else")
    assert main(command) == 2
    assert "model.zip: not a model that ESPnet saved for this use" in capsys.readouterr().err
    assert not Path("decode").exists()
