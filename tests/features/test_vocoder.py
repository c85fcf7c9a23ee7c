"""The slot for vocoders: one that was made for another log-mel is told so, and any other is taken."""

import pytest
import torch

from sigmel import SigmelError, registry
from sigmel.cli import main
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.phase import PhaseReconstruction
from sigmel.features.vocoder import make_vocoder
from sigmel.tokens.archive import dmel_archive_writer


@pytest.fixture
def beep(monkeypatch):
    """A vocoder that makes the samples of frames all equal, for 16 kHz and a frame every `hop_ms`."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    @registry.register("vocoder", "beep")
    class Beep(torch.nn.Module):
        config: dict

        def __init__(self, tokenizer, hop_ms=25.0):
            super().__init__()
            self.config = DMelTokenizer(hop_ms=hop_ms).config

        def forward(self, log_mel, lengths=None):
            return log_mel.mean(-1).repeat_interleave(400, 1), None


def test_the_default_needs_no_weights():
    assert isinstance(make_vocoder(DMelTokenizer(sample_rate=8000)), PhaseReconstruction)


def test_log_mel_must_be_the_same(beep):
    assert make_vocoder(DMelTokenizer(bits=6), "beep").config["hop_ms"] == 25
    with pytest.raises(SigmelError, match=r"'beep' is for another log-mel: it has hop_ms 10, the tokenizer 25$"):
        make_vocoder(DMelTokenizer(), "beep", hop_ms=10.0)
    with pytest.raises(SigmelError, match=r"sample_rate 16000, the tokenizer 8000; .*high_hz 7600, .* 3800"):
        make_vocoder(DMelTokenizer(sample_rate=8000), "beep")
    with pytest.raises(SigmelError, match="no option 'weights'"):
        make_vocoder(DMelTokenizer(), "beep", weights="x")


def test_the_command_takes_it(beep, tmp_path, capsys):
    tokenizer = DMelTokenizer()
    with dmel_archive_writer(tmp_path / "a.dmel", tokenizer.config) as writer:
        writer.write("x", torch.full((3, 80), 9, dtype=torch.uint8).numpy())
    command = ["dmel", "decode", str(tmp_path / "a.dmel"), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--vocoder", "beep", "--vocoder-conf", "hop_ms=12.5"]) == 2
    assert "hop_ms 12.5, the tokenizer 25" in capsys.readouterr().err
    assert main([*command, "--vocoder", "beeb"]) == 2
    assert "beep" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--vocoder-conf", "hop_ms"])
    assert "'hop_ms' is not NAME=VALUE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--vocoder", "beep"]) == 0
    import soundfile

    samples, rate = soundfile.read(tmp_path / "out/x.wav")
    assert (len(samples), rate) == (1200, 16000)
