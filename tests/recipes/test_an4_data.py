"""The data stage of the an4 recipe, on a small database with AN4's layout."""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_manifest


@pytest.fixture(scope="module")
def data(load_stage):
    return load_stage("an4/asr1")


def stage(data, *options):
    return data.exit_status(lambda: data.main([str(option) for option in options]))


@pytest.fixture(scope="module")
def made(data, an4, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "made"
    assert stage(data, "--an4-dir", an4, "--output", output, "--workers", 1) == 0
    return output


@pytest.fixture
def copy(an4, tmp_path):
    """A copy of the database, to be spoilt."""
    return shutil.copytree(an4, tmp_path / "copy")


def rows(folder, name):
    return list(read_manifest(folder / f"{name}.jsonl"))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_everything_is_there(made):
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json", "dev.jsonl", "skipped.jsonl", "test.jsonl", "train.jsonl", "wav",
    ]  # fmt: skip
    assert json.loads((made / "config.json").read_text()) == {"speeds": [0.9, 1.0, 1.1]}
    sets = {name: rows(made, name) for name in ("train", "dev", "test")}
    assert {name: len(utterances) for name, utterances in sets.items()} == {"train": 135, "dev": 10, "test": 10}
    everything = [row for utterances in sets.values() for row in utterances]
    assert sorted(path.name for path in (made / "wav").iterdir()) == sorted(f"{row.id}.wav" for row in everything)
    for row in everything:
        info = soundfile.info(made / row.audio_filepath)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert row.duration == pytest.approx(info.frames / 16000, abs=1e-4)


def test_nobody_speaks_in_two_sets(made):
    speakers = {name: {row.speaker for row in rows(made, name)} for name in ("train", "dev", "test")}
    assert speakers["dev"] == {"f000", "f010"}
    assert speakers["train"] == {f"f{n:03}" for n in range(1, 10)}
    assert speakers["test"] == {"mabc", "mdef2"}


def test_transcripts_are_words_in_lower_case(made):
    for name in ("dev", "test"):  # with the marks of sentences, and without
        texts = [row.text for row in rows(made, name)][:3]
        assert texts == ["yes", "enter fifty one", "p i t t s b u r g h"]


def test_the_sound_is_the_recording_and_two_more_speeds(an4, made):
    utterances = {row.id: row for row in rows(made, "train")}
    recorded, _ = read_audio(an4 / "wav/an4_clstk/f001/an6-f001-b.sph")
    written, _ = read_audio(made / utterances["an6-f001-b"].audio_filepath)
    np.testing.assert_allclose(written, recorded, atol=1 / 32768)
    for speed in (0.9, 1.1):
        row = utterances[f"an6-f001-b-sp{speed}"]
        assert (row.text, row.speaker) == ("enter fifty one", "f001")
        assert row.duration == pytest.approx(1.1 / speed, abs=1e-3)


def test_same_bytes_any_workers(data, an4, made, tmp_path):
    assert stage(data, "--an4-dir", an4, "--output", tmp_path / "again", "--workers", 2) == 0
    assert contents(tmp_path / "again") == contents(made)


def test_complete_folder_is_left_alone(data, made, capsys):
    assert stage(data, "--output", made) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert stage(data, "--output", made, "--speeds", 1) == 2
    assert "made with another speeds" in capsys.readouterr().err


def test_a_part_of_the_database_is_taken_and_said_to_be_one(data, copy, tmp_path, capsys):
    for kind in ("fileids", "transcription"):
        path = copy / f"etc/an4_train.{kind}"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:10]))
    # The folder that the archive unpacks to lies in another one.
    (tmp_path / "downloads").mkdir()
    copy.rename(tmp_path / "downloads/an4")
    assert stage(data, "--an4-dir", tmp_path / "downloads", "--output", tmp_path / "out", "--speeds", 1) == 0
    assert (len(rows(tmp_path / "out", "train")), len(rows(tmp_path / "out", "dev"))) == (5, 5)
    output = capsys.readouterr().out
    assert "is a part of AN4: 10 of 948 train utterances" in output
    assert "is a part of AN4: 10 of 130 test utterances" in output


# --- what is wrong with a copy


def replace_line(path, number, line):
    lines = path.read_text().splitlines(keepends=True)
    lines[number - 1] = line
    path.write_text("".join(lines))


def change_text(line):
    return lambda folder: replace_line(folder / "etc/an4_train.transcription", 3, line)


def only_one_speaker(folder):
    for kind in ("fileids", "transcription"):
        path = folder / f"etc/an4_train.{kind}"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))


def train_as_test(folder):
    for kind in ("fileids", "transcription"):
        shutil.copy(folder / f"etc/an4_train.{kind}", folder / f"etc/an4_test.{kind}")


def sound(change):
    return lambda folder: change(folder / "wav/an4test_clstk/mabc/an2-mabc-b.sph")


SHAPE = r"copy/etc/an4_train.transcription:3: expected '<s> WORDS </s> (<utterance>-<speaker>-b)', got "


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "copy/etc/an4_train.fileids: no such file; --an4-dir takes the folder"),
        (lambda folder: (folder / "etc/an4_test.transcription").unlink(), "an4_test.transcription: no such file"),
        (change_text("<s> NO </s>\n"), SHAPE + "'<s> NO </s>'"),
        (change_text("<s> </s> (an2-f000-b)\n"), SHAPE),
        (change_text("<s> NO (an2-f000-b)\n"), SHAPE),
        (change_text("<s> NO 51 </s> (an2-f000-b)\n"), SHAPE),
        (change_text("NO (an2)\n"), SHAPE),
        (change_text("\n"), SHAPE + "''"),
        (change_text(""), "an4_train.fileids has 55 lines and"),
        (change_text("<s> NO </s> (an3-f000-b)\n"), "an4_train.fileids:3: an4_clstk/f000/an2-f000-b is not the file"),
        (only_one_speaker, "an4_train has 1 speakers; it takes two"),
        (train_as_test, "f000, f001, f002"),
        (sound(os.unlink), "an4_test.fileids:3: "),
        (sound(lambda path: path.write_bytes(path.read_bytes()[:9000])), "an2-mabc-b.sph: truncated"),
        (sound(lambda path: path.write_bytes(b"NIST_1A")), "an2-mabc-b.sph: cannot be read"),
        (sound(lambda path: soundfile.write(path, np.ones(99) / 2, 8000, format="NIST")), "8000 Hz; AN4 has 16000"),
    ],
)
def test_a_broken_copy_is_one_line(data, copy, tmp_path, capsys, spoil, message):
    spoil(copy)
    assert stage(data, "--an4-dir", copy, "--output", tmp_path / "out", "--workers", 1) == 2
    error = capsys.readouterr().err.rpartition("\r")[2].strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--output", "x", "--speeds", "0"], ["--output", "x", "--speeds", "fast"], []])
def test_wrong_options_exit_2(data, options):
    with pytest.raises(SystemExit) as caught:
        data.main(options)
    assert caught.value.code == 2


# --- the download


def test_download(data, an4, made, tmp_path, address, monkeypatch):
    archive = tmp_path / "an4_sphere.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(an4, "an4")
        tar.add(__file__, "other/file")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(data, "ARCHIVE", data.ARCHIVE._replace(url=f"{address}/{archive.name}", sha256=sha256))
    assert stage(data, "--output", tmp_path / "out", "--download-dir", tmp_path / "downloads") == 0
    assert contents(tmp_path / "out") == contents(made)
    assert contents(tmp_path / "downloads") == {Path("an4") / path: held for path, held in contents(an4).items()}


def test_a_failed_download_names_the_address_and_the_option(data, tmp_path, address, monkeypatch, capsys):
    monkeypatch.setattr(data, "ARCHIVE", data.ARCHIVE._replace(url=f"{address}/nothing.tar.gz"))
    assert stage(data, "--output", tmp_path / "out", "--download-dir", tmp_path / "downloads") == 2
    error = capsys.readouterr().err
    assert "nothing.tar.gz: 404" in error
    assert "--an4-dir" in error
    assert not (tmp_path / "out").exists()
