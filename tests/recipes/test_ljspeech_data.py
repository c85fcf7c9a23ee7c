"""The data stage of the ljspeech recipe, on a few tones with LJSpeech's layout."""

import shutil

import numpy as np
import pytest
import soundfile

from sigmel.files.manifest import read_manifest


@pytest.fixture(scope="module")
def data(load_stage):
    return load_stage("ljspeech/rich1")


@pytest.fixture
def corpus(ljspeech, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(ljspeech, tmp_path / "LJSpeech-1.1")


def stage(data, corpus, output, *options):
    arguments = ["--ljspeech-dir", corpus, "--output", output, "--workers", 1, "--dev", 2, "--test", 2, *options]
    return data.exit_status(lambda: data.main([str(option) for option in arguments]))


def test_the_last_clips_are_the_test(data, corpus, tmp_path, capsys):
    (corpus / "wavs/LJ001-0003.wav").unlink()
    (corpus / "wavs/LJ001-0005.wav").write_bytes(b"no sound")
    soundfile.write(corpus / "wavs/LJ001-0006.wav", np.zeros(22050), 22050)
    assert stage(data, corpus, tmp_path / "out") == 0
    assert "1 of 12 clips are not there" in capsys.readouterr().out
    sets = {
        name: [u.id[-2:] for u in read_manifest(tmp_path / f"out/{name}.jsonl")] for name in ("train", "dev", "test")
    }
    assert sets == {"train": ["01", "02", "04", "07", "08"], "dev": ["09", "10"], "test": ["11", "12"]}
    first = next(iter(read_manifest(tmp_path / "out/train.jsonl")))
    assert first.text == "it's a tone for zoe"
    samples, rate = soundfile.read(tmp_path / "out" / first.audio_filepath)
    assert (rate, round(len(samples) / rate, 4)) == (16000, first.duration)
    skipped = (tmp_path / "out/skipped.jsonl").read_text()
    assert skipped.count("\n") == 2
    assert "silent" in skipped


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "metadata.csv").unlink(), "metadata.csv: no such file; --ljspeech-dir"),
        (
            lambda folder: (folder / "metadata.csv").write_text("LJ|only two\n"),
            "metadata.csv:1: expected ID|TEXT|NORM",
        ),
        (lambda folder: (folder / "wavs").rename(folder / "audio"), "none of the recordings"),
        (
            lambda folder: [p.unlink() for p in list((folder / "wavs").iterdir())[4:]],
            "4 clips are too few for --dev 2",
        ),
    ],
)
def test_a_broken_copy_is_one_line(data, corpus, tmp_path, capsys, spoil, message):
    spoil(corpus)
    assert stage(data, corpus, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
