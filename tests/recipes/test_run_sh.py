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
MADE = {"data", "exp", "downloads"}
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
    assert "stage 1 (data): data/train-48_dev-8_test-16 is there already" in output
    assert ", from epoch" in output  # training went on from a checkpoint
    assert (exp / "tokenizer/tokenizer.model").stat().st_mtime_ns == tokenizer
    assert json.loads((exp / "train.json").read_text())["steps"] == 60
    rows = json.loads((exp / "results.json").read_text())
    assert [row["test_set"] for row in rows] == ["test", "test_ood"]
    wanted = "test_set wer cer sub del ins words wer_low wer_high host size routing seed params_total params_active"
    for row in rows:
        assert {*wanted.split(), "training_seconds", "rtfx"} <= {key for key in row if row[key] is not None}
        assert (row["routing"], row["seed"], row["size"]) == ("path:2", 3, "nano_long")
    for made in ("score/test/hyp.trn", "score/test_ood/per_utt.jsonl", "plots/training.png", "plots/experts_test.png"):
        assert (exp / made).stat().st_size
    assert "| test | nemo nano_long path:2 | 1 |" in output

    status, output, _ = finish(recipe, *options, 6)
    assert status == 0
    assert output.count("is there already") == 6
    assert "making" not in output

    # The few sentences that were trained on do not have all letters that the grammar needs.
    status, output, errors = finish(recipe, *options, 7)
    assert status == 2
    assert "the model's tokens cannot spell" in errors
    rows = [row for row in json.loads((exp / "results.json").read_text()) if row["test_set"] == "test"]
    rates = {row.get("graph"): row["wer"] for row in rows}
    assert rates.keys() == {None, "tokens", "trigram", "rescored"}
    assert rates[None] == rates["tokens"]


@pytest.mark.slow
def test_an4_from_a_copy_to_table(egs, an4):
    recipe = egs / "an4/asr1"
    status, output, errors = finish(recipe, "--size", "nano", "--routing", "switch", "--an4_dir", str(an4))
    assert status == 0, errors
    (exp,) = recipe.glob("exp/nemo_nano_switch_seed1_an4_dir-*")
    (row,) = json.loads((exp / "results.json").read_text())
    assert (row["test_set"], row["host"], row["routing"], row["utterances"]) == ("test", "nemo", "switch", 10)
    assert "| test | nemo nano switch an4_dir=" in output
    assert (exp / "plots/training.png").stat().st_size


@pytest.mark.parametrize("corpus", ["an4", "espeak_commands", "fsdd"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sed", "1"], "unknown option: --sed"),
        (["--seed"], "--seed needs a value"),
        (["--seed", "one"], "--seed: 'one' is not one of"),
        (["3"], "unexpected argument: 3"),
        (["--stage", "8"], "--stage: '8' is not one of"),
        (["--stop_stage", "0"], "--stop_stage: '0' is not one of"),
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


def test_a_size_of_the_other_task_is_refused(egs):
    status, _, errors = finish(egs / "fsdd/rich1", "--task", "tts", "--size", "nano")
    assert (status, errors) == (2, "error: --task: 'tts' does not go with --size nano, which is for asr\n")


@pytest.mark.parametrize("recipe", ["an4/asr1", "fsdd/rich1", "espeak_multidomain/asr1"])
def test_a_stage_that_a_recipe_lacks_is_refused(egs, recipe):
    status, _, errors = finish(egs / recipe, "--stop_stage", "7")
    assert (status, errors) == (2, "error: --stop_stage: '7' is not one of: [1-6]\n")


@pytest.mark.parametrize("recipe", sorted(path.parent.relative_to(EGS) for path in EGS.glob("*/*/run.sh")), ids=str)
def test_help_is_the_comment_at_the_top(egs, recipe):
    script = [str(recipe / "run.sh"), "--help"]
    output = subprocess.check_output(script, text=True, cwd=egs)  # by a relative path
    assert "Usage: ./run.sh" in output
    assert "set -euo" not in output


@pytest.mark.slow
def test_a_language_model_from_audio_to_table(egs, make_digits):
    recipe, digits = egs / "fsdd/rich1", make_digits({"ann": 1.0, "bob": 1.2})
    status, output, errors = finish(recipe, "--size", "nano", "--fsdd_dir", str(digits), "--routing", "omni")
    assert status == 0, errors
    (exp,) = recipe.glob("exp/nemo_nano_omni_seed1_fsdd_dir-*")
    (row,) = json.loads((exp / "results.json").read_text())
    assert (row["test_set"], row["size"], row["routing"]) == ("test_official", "nano", "omni")
    assert row["params_active"] < row["params_total"]
    assert "| test_official | nemo nano omni fsdd_dir=" in output
    status, output, _ = finish(recipe, "--size", "nano", "--fsdd_dir", str(digits), "--routing", "omni")
    assert output.count("is there already") == 8
    assert status == 0


@pytest.mark.slow
def test_a_language_model_learns_to_speak_and_is_heard(egs, make_digits):
    recipe, digits = egs / "fsdd/rich1", make_digits({"ann": 1.0, "bob": 1.2})
    options = ("--task", "tts", "--size", "nano_tts", "--speaker", "ann", "--fsdd_dir", str(digits))
    status, _, errors = finish(recipe, *options)
    assert status == 0, errors
    assert list((egs / "fsdd/asr1/exp").glob("nemo_nano_omni_seed1_test_speaker-ann_fsdd_dir-*/model.nemo"))
    (exp,) = recipe.glob("exp/nemo_nano_tts_dense_seed1_speaker-ann_fsdd_dir-*")
    heard = json.loads((exp / "results.json").read_text())
    assert sorted(row["test_set"] for row in heard) == ["copied", "spoken", "test_official"]
    texts = [json.loads(line)["text"] for line in (exp / "spoken/spoken.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (exp / "decode/test_official.jsonl").read_text().splitlines()]
    assert texts == [row["text"] for row in rows]
    assert (exp / "plots/spoken.png").stat().st_size


@pytest.mark.slow
def test_voices_of_commands(egs):
    recipe = egs / "espeak_commands/rich1"
    status, _, errors = finish(recipe, "--task", "tts", "--size", "nano_tts", "--stop_stage", "3")
    assert status == 0, errors
    (manifest,) = egs.glob("espeak_commands/asr1/data/*_voices-*/train.jsonl")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert {row["speaker"] for row in rows} == {"en-us+f3", "en-us+m4", "en-us+adam", "en-us+robert"}
    assert (recipe / "exp/nemo_nano_tts_dense_seed1/model.nemo").exists()


@pytest.mark.slow
def test_a_reader_from_clips_to_table(egs, ljspeech):
    recipe = egs / "ljspeech/rich1"
    status, output, errors = finish(recipe, "--size", "nano", "--ljspeech_dir", str(ljspeech))
    assert status == 0, errors
    assert "| test | nemo nano dense ljspeech_dir=" in output
