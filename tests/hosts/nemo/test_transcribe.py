"""`sigmel transcribe` prints texts, for models of NeMo."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from sigmel.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = str(GOLDEN / "nemo.nemo")
GRAPH = ["--graph", str(GOLDEN / "graph.npz")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two recordings of noise, `a.wav` and `b.flac`, and what is not one."""
    folder = tmp_path_factory.mktemp("audio")
    noise = np.random.default_rng(0)
    soundfile.write(folder / "a.wav", 0.1 * noise.standard_normal(8000), 8000)
    soundfile.write(folder / "b.flac", 0.1 * noise.standard_normal(24000), 16000)
    (folder / "bad.wav").write_text("no audio")
    return folder


def transcribe(capsys, *arguments, status=0, model=MODEL):
    """The lines that `sigmel transcribe` prints."""
    assert main(["transcribe", model, *map(str, arguments)]) == status
    return capsys.readouterr().out.splitlines()


def test_one_file_gives_its_text_and_several_give_a_line_each(folder, capsys):
    (a,) = transcribe(capsys, folder / "a.wav")
    (b,) = transcribe(capsys, folder / "b.flac")
    assert a != b
    both = [f"{folder / 'a.wav'}\t{a}", f"{folder / 'b.flac'}\t{b}"]
    assert transcribe(capsys, folder / "a.wav", folder / "b.flac") == both
    assert transcribe(capsys, folder / "b.flac", folder / "a.wav", "--batch-size", 1) == both[::-1]


def test_what_is_no_audio_is_told_and_the_rest_is_transcribed(folder, capsys):
    assert main(["transcribe", MODEL, str(folder)]) == 1
    printed = capsys.readouterr()
    assert [Path(line.partition("\t")[0]).name for line in printed.out.splitlines()] == ["a.wav", "b.flac"]
    (error,) = (line for line in printed.err.splitlines() if line.startswith("error: "))
    assert "bad.wav: cannot be read as audio" in error


def test_json_is_a_manifest_and_manifests_and_lists_are_inputs(folder, tmp_path, capsys):
    lines = transcribe(capsys, folder / "a.wav", folder / "b.flac", "--json")
    rows = [json.loads(line) for line in lines]
    assert [row["duration"] for row in rows] == [1.0, 1.5]
    assert rows[0].keys() == {"audio_filepath", "duration", "text"}
    (tmp_path / "again.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "wav.scp").write_text(f"u1 {folder}/a.wav\nu2 {folder}/b.flac\n")
    for source in ("again.jsonl", "wav.scp"):
        assert transcribe(capsys, tmp_path / source, "--json") == lines


def test_standard_input_is_audio(folder, capsys, monkeypatch):
    (text,) = transcribe(capsys, folder / "a.wav")
    for content, status in (((folder / "a.wav").read_bytes(), 0), (b"no audio", 1)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        assert main(["transcribe", MODEL, "-"]) == status
        printed = capsys.readouterr()
        assert (printed.out == f"{text}\n") == (status == 0)
        assert ("error: -: cannot be read as audio" in printed.err) == (status == 1)


@pytest.mark.parametrize("name", ["nemo", "conformer"])
@pytest.mark.parametrize("graph", [[], GRAPH])
def test_timestamps_are_those_of_the_text(folder, capsys, name, graph):
    model = str(GOLDEN / f"{name}.nemo")
    (line,) = transcribe(capsys, folder / "b.flac", "--json", "--timestamps", *graph, model=model)
    row = json.loads(line)
    assert [word["word"] for word in row["words"]] == row["text"].split() != []
    times = [time for word in row["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 1.56
    table = [line.split("\t") for line in transcribe(capsys, folder / "b.flac", "--timestamps", *graph, model=model)]
    assert [(float(start), float(end), word) for start, end, word in table] == [
        (word["start"], word["end"], word["word"]) for word in row["words"]
    ]


def test_a_graph_is_followed_and_may_be_the_model_s_own(folder, capsys):
    said = transcribe(capsys, folder / "b.flac", *GRAPH)
    assert said != transcribe(capsys, folder / "b.flac")
    own = transcribe(capsys, folder / "b.flac", "--timestamps", model=str(GOLDEN / "graph.nemo"))
    assert {line.split("\t")[2] for line in own} <= {"one", "two", "three"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["some.jsonl", "--json", "--output", "x"], "--json prints"),
        (["some.jsonl", "--routing-stats"], "--routing-stats needs --output"),
        (["some.jsonl", "a/some.jsonl", "--output", "x"], "two manifests have the same name"),
    ],
)
def test_options_that_exclude_each_other(folder, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    for name in ("some.jsonl", "a/some.jsonl"):
        Path(name).write_text(json.dumps({"audio_filepath": str(folder / "a.wav"), "duration": 1.0}) + "\n")
    assert main(["transcribe", MODEL, *options]) == 2
    assert message in capsys.readouterr().err


def test_models_that_give_no_timestamps_say_so(folder, capsys):
    model = str(GOLDEN / "lm.nemo")
    assert main(["transcribe", model, str(folder / "a.wav"), "--timestamps"]) == 2
    assert "--timestamps: a language model over dMel has none" in capsys.readouterr().err
    assert len(transcribe(capsys, folder / "a.wav", model=model)) == 1
