"""`sigmel transcribe` prints texts, for models of ESPnet."""

import json
from pathlib import Path

import pytest

from sigmel.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


def transcribe(capsys, model, *arguments):
    """The lines that `sigmel transcribe` prints."""
    assert main(["transcribe", str(GOLDEN / model), *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_texts_are_printed(corpus, capsys):
    (first,) = transcribe(capsys, "espnet.zip", corpus / "u0.wav")
    lines = transcribe(capsys, "espnet.zip", corpus / "wav.scp")
    assert lines[0] == f"{corpus}/u0.wav\t{first}"
    assert len(lines) == 8


@pytest.mark.parametrize("model", ["espnet.zip", "conformer.zip"])
def test_timestamps_are_those_of_the_text(corpus, capsys, model):
    (line,) = transcribe(capsys, model, corpus / "u2.wav", "--json", "--timestamps")
    row = json.loads(line)
    assert row["duration"] == 0.9
    assert [word["word"] for word in row["words"]] == row["text"].split() != []
    times = [time for word in row["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 0.96


def test_what_has_no_ctc_has_no_timestamps(corpus, capsys):
    assert main(["transcribe", str(GOLDEN / "rich_asr.zip"), str(corpus / "u0.wav"), "--timestamps"]) == 2
    assert "--timestamps: a model without CTC" in capsys.readouterr().err
    assert len(transcribe(capsys, "rich_asr.zip", corpus / "u0.wav")) == 1
