"""A HiFi-GAN of NeMo's makes sound of dMel, where it was trained on the tokenizer's log-mel."""

import pytest
import torch
from nemo.collections.tts.models import HifiGanModel
from omegaconf import OmegaConf

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.vocoder import make_vocoder
from sigmel.hosts.nemo.vocoder import NeMoVocoder

MEL = {
    "_target_": "nemo.collections.asr.parts.preprocessing.features.FilterbankFeatures",
    "dither": 0.0, "nfilt": 80, "frame_splicing": 1, "highfreq": 8000, "log": True, "log_zero_guard_type": "clamp",
    "log_zero_guard_value": 1e-5, "lowfreq": 0, "mag_power": 1.0, "n_fft": 1024, "n_window_size": 1024,
    "n_window_stride": 256, "normalize": None, "pad_to": 0, "pad_value": 0, "preemph": None, "sample_rate": 22050,
    "window": "hann", "exact_pad": True,
}  # fmt: skip
SETTINGS = {"sample_rate": 22050, "hop_ms": 256 / 22.05, "window_ms": 1024 / 22.05, "low_hz": 0, "high_hz": 8000}


class Untrained(HifiGanModel):
    """Without data to train on."""

    def setup_training_data(self, cfg):
        self._train_dl = None


@pytest.fixture(scope="module")
def hifigan():
    """Of the usual log-mel, with few weights, which are random."""
    torch.manual_seed(0)
    generator = {
        "_target_": "nemo.collections.tts.modules.hifigan_modules.Generator",
        "resblock": 2,
        "upsample_rates": [8, 8, 4],
        "upsample_kernel_sizes": [16, 16, 8],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
    }
    config = {"train_ds": {"dataset": {"_target_": "nemo.collections.tts.data.dataset.VocoderDataset"}}}
    return Untrained(cfg=OmegaConf.create(config | {"preprocessor": MEL, "generator": generator, "max_steps": 1}))


def test_it_is_given_the_log_mel_it_knows(hifigan):
    tokenizer = DMelTokenizer(bits=6, **SETTINGS)
    time = torch.arange(22050) / 22050
    sound = 0.3 * torch.sin(2 * torch.pi * 440 * time)[None]
    vocoder = make_vocoder(tokenizer, "nemo", model=hifigan)
    given = {}
    hifigan.generator.register_forward_pre_hook(
        lambda _, args, kwargs: given.update(kwargs, args=args), with_kwargs=True
    )
    log_mel, frames = tokenizer.log_mel(sound)
    waveform, lengths = vocoder(log_mel, frames)
    assert waveform.shape == (1, log_mel.shape[1] * 256)
    assert lengths.tolist() == [log_mel.shape[1] * 256]
    spec = given["x"] if "x" in given else given["args"][0]
    theirs, _ = hifigan.audio_to_melspec_precessor(sound, torch.tensor([sound.shape[1]]))
    middle = slice(4, 80)
    assert (spec[..., middle] - theirs[..., middle]).abs().mean() < 0.05  # frames lie half a hop apart


def test_padding_is_silent(hifigan):
    vocoder = NeMoVocoder(DMelTokenizer(**SETTINGS), hifigan)
    waveform, lengths = vocoder(torch.zeros(2, 6, 80), torch.tensor([6, 2]))
    assert lengths.tolist() == [6 * 256, 2 * 256]
    assert not waveform[1, 2 * 256 :].any()


def test_another_log_mel_is_refused(hifigan, tmp_path):
    with pytest.raises(SigmelError, match="sample_rate 22050, the tokenizer 16000"):
        make_vocoder(DMelTokenizer(), "nemo", model=hifigan)
    with pytest.raises(SigmelError, match="no such model"):
        make_vocoder(DMelTokenizer(), "nemo", model=str(tmp_path / "none.nemo"))
    (tmp_path / "text.nemo").write_text("no model")
    with pytest.raises(SigmelError, match="not a NeMo model"):
        make_vocoder(DMelTokenizer(), "nemo", model=str(tmp_path / "text.nemo"))


@pytest.mark.parametrize("trained", ["ctc_bpe"], indirect=True)
def test_a_recogniser_is_no_vocoder(trained):
    with pytest.raises(SigmelError, match=r"\.nemo: EncDecCTCModelBPE is no Vocoder"):
        make_vocoder(DMelTokenizer(), "nemo", model=str(trained.path))
