"""The data stage of the fsdd recipe, on made-up recordings with the right names."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from sigmel.files.audio import read_audio, write_wav
from sigmel.files.manifest import read_manifest
from sigmel.recipes.corpora import fsdd as corpus

SCRIPT = Path(__file__).parents[2] / "egs" / "fsdd" / "asr1" / "local" / "data.py"
SPEAKERS = {"ann": 1.0, "bob": 0.7, "carl_otto": 1.3}


@pytest.fixture(scope="module")
def data(load_stage):
    return load_stage("fsdd/asr1")


@pytest.fixture(scope="module")
def fsdd(make_digits):
    return make_digits(SPEAKERS)


def stage(data, *options):
    return data.exit_status(lambda: data.main([str(option) for option in options]))


@pytest.fixture(scope="module")
def official(data, fsdd, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "official"
    assert stage(data, "--fsdd-dir", fsdd, "--output", output, "--train", 60, "--workers", 1) == 0
    return output


@pytest.fixture(scope="module")
def loso(data, fsdd, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "loso"
    assert stage(data, "--fsdd-dir", fsdd, "--output", output, "--train", 60, "--test-speaker", "bob") == 0
    return output


def rows(folder, name):
    return list(read_manifest(folder / f"{name}.jsonl"))


def used(utterances):
    return {name for utterance in utterances for name in utterance.extra["recordings"]}


def test_everything_is_there(official):
    assert sorted(path.name for path in official.iterdir()) == [
        "config.json", "dev.jsonl", "skipped.jsonl", "test_official.jsonl", "train.jsonl", "wav",
    ]  # fmt: skip
    assert json.loads((official / "config.json").read_text()) == {
        "test_speaker": "none", "train": 60, "speaker": "all", "seed": 0,
    }  # fmt: skip
    assert len(rows(official, "train")) == 60
    everything = [row for name in ("train", "dev", "test_official") for row in rows(official, name)]
    assert sorted(path.name for path in (official / "wav").iterdir()) == sorted(row.id + ".wav" for row in everything)
    for row in everything:
        samples, rate = read_audio(official / row.audio_filepath)
        assert rate == 8000
        assert row.duration == pytest.approx(len(samples) / 8000, abs=1e-3)
        assert 0.005 < np.abs(samples).max() <= 1.0


def test_transcripts_are_the_digits(data, official):
    for name in ("train", "dev", "test_official"):
        for row in rows(official, name):
            words = row.text.split()
            assert 1 <= len(words) <= 7
            assert set(words) <= set(corpus.WORDS)
            if row.extra["recordings"]:
                assert words == [corpus.WORDS[int(recording[0])] for recording in row.extra["recordings"]]
                assert {recording[2:].rsplit("_", 1)[0] for recording in row.extra["recordings"]} == {row.speaker}
            else:
                assert row.speaker.startswith("espeak-")


def test_official_split(official):
    index = {name: {int(r.rsplit("_", 1)[1]) for r in used(rows(official, name))} for name in ("train", "dev")}
    assert index["train"] <= set(range(8, 12))
    assert index["dev"] == {5, 6, 7}
    tested = used(rows(official, "test_official"))
    assert tested == {f"{d}_{s}_{i}" for d in range(10) for s in SPEAKERS for i in range(5)}
    lengths = {len(row.text.split()) for row in rows(official, "test_official")}
    assert lengths == set(range(1, 8))


def test_left_out_speaker_is_only_tested(loso):
    tested = used(rows(loso, "test_loso_bob"))
    assert tested == {f"{d}_bob_{i}" for d in range(10) for i in range(12)}
    assert {row.speaker for row in rows(loso, "test_loso_bob")} == {"bob"}
    for name in ("train", "dev"):
        assert not any("_bob_" in recording for recording in used(rows(loso, name)))
    assert {int(r.rsplit("_", 1)[1]) for r in used(rows(loso, "train"))} & set(range(5))


def test_every_recording_is_tested_equally_often(official, loso):
    for folder, name in ((official, "test_official"), (loso, "test_loso_bob")):
        counts = {}
        for row in rows(folder, name):
            for recording in row.extra["recordings"]:
                counts[recording] = counts.get(recording, 0) + 1
        assert len(set(counts.values())) == 1


def test_half_is_real(official):
    real = sum(bool(row.extra["recordings"]) for row in rows(official, "train"))
    assert 18 <= real <= 42  # of 60, three standard deviations


def test_test_sound_is_the_recordings_themselves(data, fsdd, official):
    row = next(row for row in rows(official, "test_official") if len(row.extra["recordings"]) == 2)
    samples, _ = read_audio(official / row.audio_filepath)
    for name in row.extra["recordings"]:
        part = corpus.trim(read_audio(fsdd / "recordings" / f"{name}.wav")[0])[100:-100]
        match = np.correlate(samples, part, "valid").max() / np.dot(part, part)
        assert match == pytest.approx(1.0, abs=0.02)


def test_same_seed_same_bytes_any_workers(data, fsdd, official, tmp_path):
    assert stage(data, "--fsdd-dir", fsdd, "--output", tmp_path / "again", "--train", 60, "--workers", 2) == 0
    assert contents(tmp_path / "again") == contents(official)
    assert stage(data, "--fsdd-dir", fsdd, "--output", tmp_path / "other", "--train", 60, "--seed", 1) == 0
    assert contents(tmp_path / "other") != contents(official)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_complete_folder_is_left_alone(data, official, capsys):
    before = (official / "train.jsonl").stat().st_mtime_ns
    assert stage(data, "--output", official, "--train", 60) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (official / "train.jsonl").stat().st_mtime_ns == before


def test_other_options_are_refused(data, official, capsys):
    assert stage(data, "--output", official, "--train", 61) == 2
    assert "made with another train" in capsys.readouterr().err


def test_bad_recordings_are_listed(data, fsdd, tmp_path):
    copy = tmp_path / "fsdd"
    copy.mkdir()
    for path in (fsdd / "recordings").iterdir():
        os.link(path, copy / path.name)
    spoilt = {"3_ann_9": np.zeros(2000), "4_ann_9": np.ones(1), "5_ann_9": np.ones(2000)}
    for name, samples in spoilt.items():
        (copy / f"{name}.wav").unlink()
        write_wav(copy / f"{name}.wav", samples, 8000)
    (copy / "6_ann_9.wav").unlink()
    (copy / "6_ann_9.wav").write_bytes(b"RIFF")
    (copy / "readme_of_ann.wav").write_bytes(b"not one of them")
    assert stage(data, "--fsdd-dir", copy, "--output", tmp_path / "out", "--train", 20, "--workers", 1) == 0
    skipped = {row.id: row.extra["reason"] for row in read_manifest(tmp_path / "out" / "skipped.jsonl")}
    assert set(skipped) == {*spoilt, "6_ann_9"}
    assert (skipped["3_ann_9"], skipped["4_ann_9"], skipped["5_ann_9"]) == ("silent", "too short", "clipped")
    assert "6_ann_9.wav: cannot be read" in skipped["6_ann_9"]
    assert not used(rows(tmp_path / "out", "train")) & set(skipped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fsdd-dir", "nowhere"], "nowhere is no folder"),
        (["--fsdd-dir", "empty"], "holds no recordings"),
        (["--fsdd-dir", "fsdd", "--test-speaker", "zoe"], "no zoe; there are ann, bob, carl_otto"),
    ],
)
def test_wrong_input_is_one_line(data, fsdd, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "fsdd").symlink_to(fsdd)
    assert stage(data, *options, "--output", "out") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.tmp").exists()


@pytest.mark.parametrize("options", [["--train", "0"], ["--seed", "-1"], ["--workers", "0"], []])
def test_wrong_options_exit_2(data, options):
    with pytest.raises(SystemExit) as caught:
        data.main([*options, *(["--output", "x"] if options else [])])
    assert caught.value.code == 2


def test_speakers_are_listed(data, fsdd, capsys):
    assert stage(data, "--list-speakers", "--fsdd-dir", fsdd / "recordings", "--output", "x") == 0
    assert capsys.readouterr().out.split() == sorted(SPEAKERS)


# --- the download


@pytest.fixture
def archive(data, fsdd, tmp_path, address, monkeypatch):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted((fsdd / "recordings").iterdir())[:20]:
            tar.add(path, f"free-spoken-digit-dataset-1.0.9/recordings/{path.name}")
        tar.add(__file__, "free-spoken-digit-dataset-1.0.9/../../escape.wav")
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(packed.getvalue())
    sha256 = hashlib.sha256(packed.getvalue()).hexdigest()
    monkeypatch.setattr(corpus, "ARCHIVE", corpus.ARCHIVE._replace(url=f"{address}/{path.name}", sha256=sha256))
    return path


def test_download(data, archive, tmp_path):
    folder = corpus.ARCHIVE.fetch(tmp_path / "downloads")
    assert [path.name for path in folder.iterdir()] == ["recordings"]
    assert len(corpus.find_recordings(folder)) == 20
    assert not list(tmp_path.rglob("escape.wav"))
    archive.unlink()
    assert corpus.ARCHIVE.fetch(tmp_path / "downloads") == folder  # it is there: no second download


# --- killed half-way


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_is_repeated_cleanly(data, fsdd, official, tmp_path, how):
    output = tmp_path / "out"
    command = [sys.executable, str(SCRIPT), "--fsdd-dir", str(fsdd), "--output", str(output), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--train", "20000"],
        stderr=subprocess.PIPE,
        text=True,
        # As from a terminal; tests that a shell runs in the background have it ignored, and so has what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wav = tmp_path / "out.tmp" / "wav"
    deadline = time.monotonic() + 60
    while not (wav.is_dir() and any(wav.iterdir())):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(how)
    error = process.communicate(timeout=30)[1]
    assert not output.exists()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "Traceback" not in error
        assert not wav.exists()
    else:
        count = len(list(wav.iterdir()))
        time.sleep(1.0)
        assert len(list(wav.iterdir())) <= count + 2  # the workers went down with it
    assert stage(data, "--fsdd-dir", fsdd, "--output", output, "--train", 60) == 0
    assert contents(output) == contents(official)


def test_one_speaker_as_recorded(data, fsdd, tmp_path, capsys):
    def of(speaker):
        options = ("--train", 20, "--speaker", speaker, "--workers", 1)
        return stage(data, "--fsdd-dir", fsdd, "--output", tmp_path / speaker, *options)

    assert of("bob") == 0
    utterances = [row for name in ("train", "dev", "test_official") for row in rows(tmp_path / "bob", name)]
    assert {row.speaker for row in utterances} == {"bob"}
    assert of("nobody") == 2
    assert "--speaker: no nobody; there are ann, bob, carl_otto" in capsys.readouterr().err
