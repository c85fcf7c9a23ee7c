"""The recipes' run.sh: the whole way from text to a table, killed on the way; and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EGS = Path(__file__).parents[2] / "egs"
MADE = {"data", "exp", "downloads", "results.json"}
pytestmark = pytest.mark.xdist_group("recipes")


@pytest.fixture(scope="module")
def egs(tmp_path_factory):
    """A copy of the recipes, without what they have made."""
    return shutil.copytree(EGS, tmp_path_factory.mktemp("copy") / "egs", ignore=lambda _, names: MADE & set(names))


def start(recipe: Path, *options: object) -> subprocess.Popen:
    command = [str(recipe / "run.sh"), "--python", sys.executable, *map(str, options)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=recipe.parent
    )


def finish(recipe: Path, *options: object) -> tuple[int, str, str]:
    process = start(recipe, *options)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


@pytest.mark.slow
def test_espeak_commands_from_text_to_table(egs):
    recipe = egs / "espeak_commands/asr1"
    # Enough steps to be killed among them.
    (recipe / "conf/nemo/nano_long.yaml").write_text("defaults: [nano, _self_]\ntrainer:\n  max_steps: 60\n")
    exp = recipe / "exp/nemo_nano_long_path2_seed3"
    options = ("--size", "nano_long", "--routing", "path:2", "--seed=3", "--stop_stage")

    killed = start(recipe, *options, 6)
    deadline = time.monotonic() + 240
    while not list((exp / "checkpoints").glob("*.ckpt")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (exp / "model.nemo").exists()
    tokenizer = (exp / "tokenizer/tokenizer.model").stat().st_mtime_ns

    status, output, errors = finish(recipe, *options, 6)
    assert status == 0, errors
    assert "stage 1 (data): data/train48 is there already" in output
    assert ", from epoch" in output  # training went on from a checkpoint
    assert (exp / "tokenizer/tokenizer.model").stat().st_mtime_ns == tokenizer
    assert json.loads((exp / "train.json").read_text())["steps"] == 60
    rows = json.loads((recipe / "results.json").read_text())
    assert [row["test_set"] for row in rows] == ["test", "test_ood"]
    wanted = "test_set wer cer sub del ins words wer_low wer_high host size routing seed params_total params_active"
    for row in rows:
        assert {*wanted.split(), "training_seconds", "rtfx"} <= {key for key in row if row[key] is not None}
        assert (row["routing"], row["seed"], row["size"]) == ("path:2", 3, "nano_long")
    for made in ("score/test/hyp.trn", "score/test_ood/per_utt.jsonl", "plots/training.png", "plots/experts_test.png"):
        assert (exp / made).stat().st_size
    readme = (recipe / "README.md").read_text()
    assert "| test nemo nano_long path:2 seed 3 | 16 |" in readme

    status, output, _ = finish(recipe, *options, 6)
    assert status == 0
    assert output.count("is there already") == 6
    assert "making" not in output
    assert (recipe / "README.md").read_text() == readme

    # The few sentences that were trained on do not have all letters that the grammar needs.
    status, output, errors = finish(recipe, *options, 7)
    assert status == 2
    assert "the model's tokens cannot spell" in errors
    rows = [row for row in json.loads((recipe / "results.json").read_text()) if row["test_set"] == "test"]
    rates = {row.get("graph"): row["wer"] for row in rows}
    assert rates.keys() == {None, "tokens", "trigram", "rescored"}
    assert rates[None] == rates["tokens"]


@pytest.mark.slow
def test_an4_from_a_copy_to_table(egs, an4):
    recipe = egs / "an4/asr1"
    status, _, errors = finish(recipe, "--size", "nano", "--routing", "switch", "--an4_dir", str(an4))
    assert status == 0, errors
    (row,) = json.loads((recipe / "results.json").read_text())
    assert (row["test_set"], row["host"], row["routing"], row["utterances"]) == ("test", "nemo", "switch", 10)
    assert "| test nemo nano switch seed 1 | 10 |" in (recipe / "README.md").read_text()
    assert (recipe / "exp/nemo_nano_switch_seed1/plots/training.png").stat().st_size


@pytest.mark.parametrize("corpus", ["an4", "espeak_commands", "fsdd"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sed", "1"], "unknown option: --sed"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "one"], "--seed: 'one' is not one of"),
        (["3"], "unexpected argument: 3"),
        (["--stage", "8"], "--stage: '8' is not one of"),
        (["--routing", "path:0"], "--routing: 'path:0' is not one of"),
        (["--host", "kaldi"], "--host: 'kaldi' is not one of"),
        (["--size", "huge"], "--size: 'huge' has no conf/nemo/huge.yaml"),
        (["--python", "/nowhere/python"], "--python: /nowhere/python has no sigmel"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(egs, corpus, options, message):
    recipe = egs / corpus / "asr1"
    before = sorted(recipe.rglob("*"))
    status, output, errors = finish(recipe, *options)
    assert status == 2
    assert errors.strip().startswith("error: ")
    assert message in errors
    assert not output
    assert sorted(recipe.rglob("*")) == before


@pytest.mark.parametrize("recipe", sorted(path.parent.relative_to(EGS) for path in EGS.glob("*/*/run.sh")), ids=str)
def test_help_is_the_comment_at_the_top(egs, recipe):
    status, output, _ = finish(egs / recipe, "--help")
    assert status == 0
    assert "Usage: ./run.sh" in output
    assert "set -euo" not in output


def test_fsdd_takes_every_speaker_in_turn(egs, tmp_path):
    """With data that are there already, every speaker reaches its own training."""
    recordings = tmp_path / "corpus/recordings"
    recordings.mkdir(parents=True)
    for speaker in ("anna", "bert_2"):
        (recordings / f"0_{speaker}_0.wav").touch()
        data = egs / f"fsdd/asr1/data/loso_{speaker}_train48"
        data.mkdir(parents=True)
        (data / "train.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1.0, "text": "zero one"}\n')
    options = ("--size", "nano", "--stop_stage", "2", "--test_speaker", "all", "--fsdd_dir", str(tmp_path / "corpus"))
    status, _, errors = finish(egs / "fsdd/asr1", *options)
    assert status == 0, errors
    for speaker in ("anna", "bert_2"):
        assert (egs / f"fsdd/asr1/exp/nemo_nano_omni_seed1_loso_{speaker}/tokenizer/tokenizer.model").exists()


@pytest.mark.slow
def test_a_language_model_from_audio_to_table(egs, make_digits):
    recipe, digits = egs / "fsdd/rich1", make_digits({"ann": 1.0, "bob": 1.2})
    status, output, errors = finish(recipe, "--size", "nano", "--fsdd_dir", str(digits), "--routing", "omni")
    assert status == 0, errors
    (row,) = json.loads((recipe / "results.json").read_text())
    assert (row["test_set"], row["size"], row["routing"]) == ("test_official", "nano", "omni")
    assert row["params_active"] < row["params_total"]
    assert "| test_official | nemo nano omni | 1 |" in (recipe / "README.md").read_text()
    status, output, _ = finish(recipe, "--size", "nano", "--fsdd_dir", str(digits), "--routing", "omni")
    assert output.count("is there already") == 8
    assert status == 0


@pytest.mark.slow
def test_a_language_model_learns_to_speak_and_is_heard(egs, make_digits):
    recipe, digits = egs / "fsdd/rich1", make_digits({"ann": 1.0, "bob": 1.2})
    options = ("--task", "tts", "--size", "nano_tts", "--speaker", "ann", "--fsdd_dir", str(digits))
    status, _, errors = finish(recipe, *options)
    assert status == 0, errors
    judge = egs / "fsdd/asr1/exp/nemo_nano_omni_seed1_loso_ann"
    assert (judge / "model.nemo").exists()
    heard = [row for row in json.loads((recipe / "results.json").read_text()) if row["size"] == "nano_tts"]
    assert sorted(row["test_set"] for row in heard) == ["copied", "spoken", "test_official"]
    exp = recipe / "exp/nemo_nano_tts_dense_seed1"
    texts = [json.loads(line)["text"] for line in (exp / "spoken/spoken.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (exp / "decode/test_official.jsonl").read_text().splitlines()]
    assert texts == [row["text"] for row in rows]
    assert (exp / "plots/spoken.png").stat().st_size


@pytest.mark.slow
def test_voices_of_commands(egs):
    recipe = egs / "espeak_commands/rich1"
    status, _, errors = finish(recipe, "--task", "tts", "--size", "nano_tts", "--stop_stage", "3")
    assert status == 0, errors
    rows = [json.loads(line) for line in (recipe / "data/voices_train48/train.jsonl").read_text().splitlines()]
    assert {row["speaker"] for row in rows} == {"en-us+f3", "en-us+m4", "en-us+adam", "en-us+robert"}
    assert (recipe / "exp/nemo_nano_tts_dense_seed1/model.nemo").exists()


@pytest.mark.slow
def test_a_reader_from_clips_to_table(egs, ljspeech):
    recipe = egs / "ljspeech/rich1"
    status, _, errors = finish(recipe, "--size", "nano", "--ljspeech_dir", str(ljspeech))
    assert status == 0, errors
    assert "| test | nemo nano dense | 1 |" in (recipe / "README.md").read_text()
