"""Filters equal librosa's; padding changes nothing; features have mean 0 and deviation 1."""

import librosa
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel import SigmelError
from sigmel.features.log_mel import LogMel, mel_filters


@pytest.mark.parametrize(("sample_rate", "n_fft", "channels"), [(16000, 512, 80), (8000, 256, 64), (48000, 2048, 128)])
def test_filters_equal_those_of_librosa(sample_rate, n_fft, channels):
    expected = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=channels)
    np.testing.assert_allclose(mel_filters(sample_rate, n_fft, channels).numpy(), expected, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(400, 4000), min_size=1, max_size=4), st.sampled_from([None, "per_feature"]))
def test_padding_changes_nothing(samples, normalize):
    frontend = LogMel(features=20, normalize=normalize).eval()
    waveforms = torch.randn(len(samples), max(samples))  # what lies beyond an end is noise, and must not count
    together, frames = frontend(waveforms, torch.tensor(samples))
    assert together.shape == (len(samples), max(samples) // 160, 20)
    for n, length in enumerate(samples):
        alone, _ = frontend(waveforms[n : n + 1, :length], torch.tensor([length]))
        torch.testing.assert_close(together[n, : frames[n]], alone[0, : frames[n]], atol=1e-4, rtol=1e-4)
        assert not together[n, frames[n] :].any()


def test_channels_have_mean_0_and_deviation_1():
    features, _ = LogMel().eval()(torch.randn(2, 16000), torch.tensor([16000, 16000]))
    torch.testing.assert_close(features.mean(1), torch.zeros(2, 80), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(1), torch.ones(2, 80), atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [0, 1, 159, 160, 161, 320])
def test_hardly_any_samples_give_finite_features(length):
    features, frames = LogMel().eval()(torch.zeros(1, max(length, 1)), torch.tensor([length]))
    assert features.isfinite().all()
    assert frames.tolist() == [length // 160]


def test_dither_is_for_training():
    frontend, silence = LogMel(normalize=None), torch.zeros(1, 1600)
    first, second = (frontend.train()(silence, torch.tensor([1600]))[0] for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (frontend.eval()(silence, torch.tensor([1600]))[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "square"}, "window: 'square' is none of hann, hamming, blackman"),
        ({"normalize": "all"}, "normalize: 'all' is neither per_feature nor null"),
        ({"n_fft": 256}, "n_fft: 256 is less than the window, 400 samples"),
        ({"window_stride": 0.0}, "must each be at least one"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(SigmelError, match=message):
        LogMel(**options)
