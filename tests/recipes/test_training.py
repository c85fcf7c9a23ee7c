"""Utterances that CTC can learn from, and what a training leaves behind."""

import json

import numpy as np
import pytest

from sigmel.errors import SigmelError
from sigmel.files.audio import write_wav
from sigmel.files.manifest import Utterance, write_manifest
from sigmel.models.stack import ParameterCounts
from sigmel.recipes.training import Trained, trainable
from sigmel.tokens.text import train_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    """The folder of a tokenizer of words."""
    train_tokenizer(["a b"], tmp_path / "tokenizer", "word")
    return tmp_path / "tokenizer"


def test_what_ctc_cannot_learn_from_is_listed(tmp_path, tokenizer, capsys):
    tone = 0.3 * np.sin(np.arange(16000) / 10)
    write_wav(tmp_path / "good.wav", tone, 16000)
    write_wav(tmp_path / "silent.wav", 0 * tone, 16000)
    words = ["a", "b"] * 13
    utterances = [
        Utterance("good", "good.wav", 1.0, "a b"),
        Utterance("empty", "good.wav", 1.0, " "),
        Utterance("long", "good.wav", 1.0, " ".join(words)),
        Utterance("just", "good.wav", 1.0, " ".join(words[:25])),  # 1 s is 25 frames of 40 ms
        Utterance("equal", "good.wav", 1.0, " ".join(["a"] * 14)),  # CTC puts a blank between equal tokens
        Utterance("silent", "silent.wav", 1.0, "a"),
        Utterance("missing", "missing.wav", 1.0, "a"),
    ]
    write_manifest(tmp_path / "train.jsonl", utterances)
    kept, skipped = trainable(tmp_path / "train.jsonl", tokenizer, 0.04, tmp_path / "skipped.jsonl")
    assert [(utterance.id, utterance.audio_filepath) for utterance in kept] == [
        ("good", str(tmp_path / "good.wav")),
        ("just", str(tmp_path / "good.wav")),
    ]
    assert [(row["id"], row["reason"].split(":")[-1].strip()) for row in skipped] == [
        ("empty", "empty transcript"),
        ("long", "transcript of 26 tokens is longer than the audio of 25 frames"),
        ("equal", "transcript of 27 tokens is longer than the audio of 25 frames"),
        ("silent", "silent"),
        ("missing", "no such file"),
    ]
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in listed] == [row["reason"] for row in skipped]
    assert "left out 5 of 7 utterances" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        ([Utterance("x", "x.wav", 1.0, "a c")], r"train\.jsonl: x: the tokenizer has no piece for .*c"),
        ([Utterance("x", "x.wav", 1.0, " ")], "no utterance to learn from; of the 1 it holds, the first: empty"),
        ([], "no utterance to learn from$"),
    ],
)
def test_manifests_that_cannot_be_used_are_named(tmp_path, tokenizer, utterances, message):
    write_manifest(tmp_path / "train.jsonl", utterances)
    with pytest.raises(SigmelError, match=message):
        trainable(tmp_path / "train.jsonl", tokenizer, 0.04, tmp_path / "skipped.jsonl")
    assert not (tmp_path / "skipped.jsonl").exists()


def test_facts_are_written_before_the_model_which_is_whole_or_absent(tmp_path):
    def fail(path):
        path.write_text("half")
        raise SigmelError("stopped")

    trained = Trained(ParameterCounts(10, 6), 3, 1.25)
    with pytest.raises(SigmelError, match="stopped"):
        trained.write(tmp_path / "exp/model.zip", fail)
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["train.json"]
    trained.write(tmp_path / "exp/model.zip", lambda path: path.write_text("whole"))
    facts = json.loads((tmp_path / "exp/train.json").read_text())
    assert (facts["params_total"], facts["params_active"], facts["steps"], facts["seconds"]) == (10, 6, 3, 1.2)
    assert (tmp_path / "exp/model.zip").read_text() == "whole"
