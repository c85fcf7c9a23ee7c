"""Audio files in and out, good and bad."""

import numpy as np
import pytest
import soundfile

from sigmel import SigmelError
from sigmel.files.audio import AudioError, check_audio, parse_sample_rate, read_audio, write_wav
from sigmel.files.resampling import resample


def tone(seconds=0.5, rate=16000, frequency=440.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_wav_keeps_the_samples(tmp_path):
    write_wav(tmp_path / "a.wav", tone(), 16000)
    samples, rate = read_audio(tmp_path / "a.wav")
    assert rate == 16000
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone(), atol=1 / 32768)


def test_wav_clips_what_is_too_loud(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([-3.0, 0.0, 3.0]), 8000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], [-1.0, 0.0, 1.0], atol=1e-4)


def test_stereo_is_averaged(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.stack([tone(), -0.5 * tone()], axis=1), 44100)
    samples, _ = read_audio(tmp_path / "a.flac")
    np.testing.assert_allclose(samples, 0.25 * tone(), atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_resampling_keeps_the_tone(tmp_path, rate):
    write_wav(tmp_path / "a.wav", tone(1.0, rate), rate)
    samples, new_rate = read_audio(tmp_path / "a.wav", 16000)
    assert new_rate == 16000
    assert len(samples) == 16000
    inside = slice(1000, -1000)
    np.testing.assert_allclose(samples[inside], tone(1.0)[inside], atol=2e-3)


def test_resampling_one_sample_gives_one():
    assert len(resample(np.ones(1, np.float32), 48000, 8000)) == 1


def _truncated(path):
    write_wav(path, tone(), 16000)
    path.write_bytes(path.read_bytes()[:5000])


def _truncated_flac(path):
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 40000), 16000, format="FLAC")
    path.write_bytes(path.read_bytes()[:30000])


def _truncated_sphere(path):
    soundfile.write(path, tone(), 16000, format="NIST")
    assert len(read_audio(path)[0]) == 8000
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "no such file"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("not audio at all"), "cannot be read"),
        (lambda path: soundfile.write(path, np.zeros(0), 16000), "no samples"),
        (lambda path: soundfile.write(path, np.array([0.0, np.nan]), 16000, subtype="FLOAT"), "NaN"),
        (lambda path: soundfile.write(path, np.array([0.0, np.inf]), 16000, subtype="FLOAT"), "NaN"),
        (_truncated, "truncated"),
        (_truncated_flac, "truncated|cannot be read"),
        (_truncated_sphere, "truncated"),
    ],
)
def test_bad_file_is_named(tmp_path, spoil, message):
    path = tmp_path / "bad.wav"
    spoil(path)
    with pytest.raises(AudioError, match=rf"bad\.wav: .*({message})"):
        read_audio(path)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 3)), np.array([np.nan])])
def test_what_cannot_be_written(tmp_path, samples):
    with pytest.raises(AudioError, match=r"a\.wav"):
        write_wav(tmp_path / "a.wav", samples, 16000)
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        (tone(), None),
        (tone()[:1], "too short"),
        (np.zeros(0, np.float32), "too short"),
        (np.zeros(16000, np.float32), "silent"),
        (np.sign(tone()), "clipped"),
        (np.append(tone(), 1.0), None),  # one full-scale sample is no clipping
    ],
)
def test_check_audio(samples, fault):
    assert check_audio(samples, 16000) == fault


@pytest.mark.parametrize(
    ("fs", "hertz"), [(16000, 16000), ("16000", 16000), ("16k", 16000), ("22.05kHz", 22050), ("8000 Hz", 8000)]
)
def test_sampling_rates_as_espnet_writes_them(fs, hertz):
    assert parse_sample_rate(fs) == hertz


@pytest.mark.parametrize("fs", ["", "16m", "fast", "-8000"])
def test_what_is_no_parse_sample_rate(fs):
    with pytest.raises(SigmelError, match="is not a sampling rate; write 16000 or 16k"):
        parse_sample_rate(fs)
