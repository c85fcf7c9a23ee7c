"""The vocoder without weights: sounds have the spectra they were made of, and a stream is the whole."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.phase import PhaseReconstruction

TOKENIZER = DMelTokenizer()
VOCODER = PhaseReconstruction(TOKENIZER)


def chord(samples, sample_rate=16000):
    time = torch.arange(samples) / sample_rate
    pitch = 2 * torch.pi * torch.cumsum(150 + 60 * torch.sin(2 * torch.pi * time), 0) / sample_rate
    return 0.1 * sum(torch.sin(k * pitch) / k for k in range(1, 20))


@pytest.mark.parametrize(
    "options", [{}, {"hop_ms": 12.5}, {"sample_rate": 8000}, {"sample_rate": 24000}, {"sample_rate": 22050}]
)
def test_the_sound_has_the_log_mel_it_was_made_of(options):
    tokenizer = DMelTokenizer(**options)
    log_mel, _ = tokenizer.log_mel(chord(tokenizer.sample_rate, tokenizer.sample_rate))
    waveform, lengths = PhaseReconstruction(tokenizer)(log_mel)
    assert lengths.tolist() == [(log_mel.shape[1] - 1) * tokenizer.hop]
    again, _ = tokenizer.log_mel(waveform)
    loud = log_mel[:, 3:-3] > log_mel.max() - 2
    assert (again - log_mel)[:, 3:-3][loud].abs().mean() < 0.08  # a tenth is 2 dB
    noise, _ = tokenizer.log_mel(torch.randn(waveform.shape) * 0.1)
    assert (noise - log_mel)[:, 3:-3][loud].abs().mean() > 0.3


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=5))
def test_a_stream_has_the_samples_of_the_whole(chunks):
    log_mel = torch.rand(2, sum(chunks), 80) * 3 - 4
    expected, _ = VOCODER(log_mel)
    state, parts = VOCODER.initial_state(2), []
    for chunk in log_mel.split(chunks, dim=1):
        samples, state = VOCODER.step(chunk, state)
        parts.append(samples)
    parts.append(VOCODER.finish(state))
    assert torch.equal(VOCODER.finish(state), parts[-1])  # the state is as it was
    assert torch.equal(torch.cat(parts, dim=1), expected)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=3))
def test_padding_changes_nothing(frames):
    log_mel = torch.rand(len(frames), max(frames), 80) * 3 - 4
    together, lengths = VOCODER(log_mel, torch.tensor(frames))
    assert lengths.tolist() == [max(0, n - 1) * 400 for n in frames]
    for number, count in enumerate(frames):
        alone, _ = VOCODER(log_mel[number : number + 1, :count])
        assert torch.equal(together[number, : lengths[number]], alone[0])
        assert not together[number, lengths[number] :].any()


def test_samples_come_soon():
    """Half a transform and the frames that are looked ahead to: 57 ms."""
    state, given_frames, heard = VOCODER.initial_state(), 0, 0
    for _ in range(20):
        samples, state = VOCODER.step(torch.rand(1, 1, 80) - 3, state)
        given_frames, heard = given_frames + 1, heard + samples.shape[1]
        assert (given_frames - 1) * 400 - heard <= 512 + VOCODER.look_ahead * VOCODER.hop


def test_silence_is_silent():
    waveform, _ = VOCODER(TOKENIZER.log_mel(torch.zeros(1, 8000))[0])
    assert waveform.abs().max() < 1e-3


def test_settings_are_checked():
    with pytest.raises(SigmelError, match="look_ahead, iterations: -1 and 4"):
        PhaseReconstruction(TOKENIZER, look_ahead=-1)
