"""Augmentation: each function changes what it says and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.recipes import augment

RATE = 8000


def tone(frequency=500.0, seconds=1.0):
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def peak_frequency(samples):
    return np.argmax(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))) * RATE / len(samples)


def vowel(pitch=100.0, formant=1000.0, seconds=1.0):
    """Pulses through one resonance."""
    from scipy.signal import lfilter

    pulses = np.zeros(int(seconds * RATE))
    pulses[:: int(RATE / pitch)] = 1.0
    pole = 0.97 * np.exp(2j * np.pi * formant / RATE)
    return (0.1 * lfilter([1.0], [1.0, -2 * pole.real, abs(pole) ** 2], pulses)).astype(np.float32)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_speed_moves_pitch_and_duration(factor):
    samples = augment.change_speed(tone(), factor)
    assert len(samples) == pytest.approx(RATE / factor, abs=2)
    assert peak_frequency(samples) == pytest.approx(500 * factor, rel=0.01)


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.15, 1.5])
def test_tempo_moves_duration_only(factor):
    samples = augment.change_tempo(tone(), factor, RATE)
    assert len(samples) == pytest.approx(RATE / factor, rel=0.03)
    assert peak_frequency(samples) == pytest.approx(500, rel=0.01)
    assert augment.rms(samples[500:-500]) == pytest.approx(augment.rms(tone()), rel=0.03)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_formants_move_without_pitch_or_duration(factor):
    samples = vowel()
    shifted = augment.shift_formants(samples, factor, RATE)
    assert len(shifted) == len(samples)
    spectrum = np.abs(np.fft.rfft(shifted))  # a second: one bin a hertz
    harmonics = spectrum[100:3500:100]
    assert 100 * (1 + np.argmax(harmonics)) == pytest.approx(1000 * factor, abs=100)
    assert harmonics.max() > 20 * np.median(spectrum)  # still pulses of 100 Hz


def test_factor_one_changes_nothing():
    samples = vowel()
    assert augment.change_speed(samples, 1.0) is samples
    assert augment.change_tempo(samples, 1.0, RATE) is samples
    assert augment.shift_formants(samples, 1.0, RATE) is samples
    np.testing.assert_allclose(augment.shift_formants(samples, 1.0001, RATE), samples, atol=2e-3)


def test_room_lengthens_a_click_and_keeps_the_level():
    click = np.zeros(RATE, np.float32)
    click[100] = 0.9
    samples = augment.reverberate(click, np.random.default_rng(0), RATE, 0.4)
    assert len(samples) == len(click)
    assert augment.rms(samples) == pytest.approx(augment.rms(click), rel=1e-3)
    assert not np.abs(samples[:100]).max() > 1e-6  # nothing before the sound
    energy = np.square(samples[100:])
    assert 0.001 < energy[800:].sum() / energy.sum() < 0.5
    assert np.abs(samples[100 + int(0.45 * RATE) :]).max() < 1e-6


@pytest.mark.parametrize(("colour", "slope"), [("white", 0.0), ("pink", -3.0), ("brown", -6.0)])
def test_noise_has_its_colour(colour, slope):
    noise = augment.coloured_noise(1 << 16, np.random.default_rng(0), colour)
    power = np.square(np.abs(np.fft.rfft(noise)))
    octaves = [10 * np.log10(power[1 << k : 1 << (k + 1)].mean()) for k in range(9, 15)]
    assert np.polyfit(range(6), octaves, 1)[0] == pytest.approx(slope, abs=0.3)
    assert augment.rms(noise) == pytest.approx(1.0, rel=1e-3)


def test_unknown_colour():
    with pytest.raises(ValueError, match="beige"):
        augment.coloured_noise(100, np.random.default_rng(0), "beige")


@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_is_as_loud_as_asked(snr):
    noise = augment.coloured_noise(RATE, np.random.default_rng(0))
    mixed = augment.add_noise(tone(), noise, snr)
    assert 20 * np.log10(augment.rms(tone()) / augment.rms(mixed - tone())) == pytest.approx(snr, abs=0.01)


def test_babble_repeats_what_is_short():
    samples = augment.babble([tone(300), tone(700, 0.1), np.zeros(0, np.float32)], 5000, np.random.default_rng(0))
    assert len(samples) == 5000
    assert augment.rms(samples) == pytest.approx(1.0, rel=1e-3)
    power = np.abs(np.fft.rfft(samples, RATE))
    assert min(power[295:305].max(), power[695:705].max()) > 5 * power[1000:3000].max()


def test_band_limit_keeps_the_band():
    for frequency, kept in ((100, False), (1000, True), (3800, False)):
        ratio = augment.rms(augment.band_limit(tone(frequency), RATE)[1000:]) / augment.rms(tone(frequency))
        assert (ratio > 0.9) if kept else (ratio < 0.2)


def test_equalizer_is_bounded_and_random():
    rng = np.random.default_rng(0)
    samples = augment.coloured_noise(RATE, rng)
    first, second = (augment.equalize(samples, rng, RATE) for _ in range(2))
    assert len(first) == len(samples)
    assert not np.allclose(first, second)
    assert 0.1 < augment.rms(first) / augment.rms(samples) < 10


def test_clip_and_level():
    clipped = augment.clip(augment.coloured_noise(RATE, np.random.default_rng(0)), 0.2)
    assert (np.abs(clipped) == np.abs(clipped).max()).mean() == pytest.approx(0.2, abs=0.02)
    assert np.abs(augment.set_level(tone(), 0.1)).max() == pytest.approx(0.1)
    assert not augment.set_level(np.zeros(10, np.float32), 0.5).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 10), st.sampled_from([0.8, 0.95, 1.2]))
def test_any_length_survives_everything(length, seed, factor):
    rng = np.random.default_rng(seed)
    samples = augment.coloured_noise(length, rng) * np.float32(0.1)
    for change in (
        lambda x: augment.shift_formants(x, factor, RATE),
        lambda x: augment.change_tempo(x, factor, RATE),
        lambda x: augment.change_speed(x, factor),
        lambda x: augment.reverberate(x, rng, RATE, 0.2),
        lambda x: augment.equalize(x, rng, RATE),
        lambda x: augment.band_limit(x, RATE),
        lambda x: augment.add_noise(x, augment.coloured_noise(len(x), rng, "pink"), 10.0),
        lambda x: augment.clip(x, 0.01),
        lambda x: augment.set_level(x, 0.5),
    ):
        changed = change(samples)
        assert changed.dtype == np.float32
        assert len(changed) >= 1
        assert np.isfinite(changed).all()
