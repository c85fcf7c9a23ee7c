"""The spectrogram, and plots that come out as images."""

import json

import numpy as np
import pytest
import soundfile

from sigmel.cli import main
from sigmel.features.plots import spectrogram


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_tone_stands_at_its_mel_channel(rate):
    def mel(hertz):
        return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * np.log(hertz / 1000) / np.log(6.4)

    seconds = np.arange(rate) / rate
    for frequency in (300, 1000, 3000):
        energy = spectrogram(np.sin(2 * np.pi * frequency * seconds), rate)
        assert energy.shape == (64, 100)
        assert abs(energy[:, 50].argmax() - (mel(frequency) / mel(rate / 2) * 65 - 1)) <= 1
        assert 1 <= (energy[:, 50] > energy[:, 50].max() - 40).sum() <= 12


@pytest.fixture
def experiment(tmp_path):
    header = "step,seconds,train_loss,aux_loss,attention_norm,learning_rate,val_loss,val_wer\n"
    (tmp_path / "metrics.csv").write_text(header + "1,1.0,9.0,0.1,,0.001,,\n2,2.0,8.0,0.1,1.5,0.002,7.0,0.9\n")
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(8000) / 10, 8000)
    utterance = {"audio_filepath": str(tmp_path / "a.wav"), "text": "one", "frame_seconds": 0.04}
    utterance["experts"] = [[0, 1] * 12, [2] * 24]
    layers = [{"load": [0.5, 0.5, 0.0]}, {"load": [0.0, 0.0, 1.0]}]
    (tmp_path / "decode").mkdir()
    (tmp_path / "decode/test.routing.json").write_text(json.dumps({"layers": layers, "utterance": utterance}))
    return tmp_path


def test_an_experiment_becomes_images(experiment):
    assert main(["plot", str(experiment), "--output", str(experiment / "plots")]) == 0
    images = sorted((experiment / "plots").iterdir())
    assert [image.name for image in images] == ["experts_test.png", "load_test.png", "training.png"]
    assert all(image.read_bytes().startswith(b"\x89PNG") for image in images)


def test_a_dense_model_has_only_a_training_curve(experiment):
    (experiment / "decode/test.routing.json").unlink()
    assert main(["plot", str(experiment), "--output", str(experiment / "plots")]) == 0
    assert [image.name for image in (experiment / "plots").iterdir()] == ["training.png"]


def test_an_experiment_without_training_is_named(tmp_path, capsys):
    assert main(["plot", str(tmp_path), "--output", str(tmp_path / "plots")]) == 2
    assert "metrics.csv: no such file" in capsys.readouterr().err
