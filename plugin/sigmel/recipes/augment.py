"""Augmentation of recordings: other speakers, other rooms, other microphones, noise.

Every function takes and returns float32 samples of shape (samples,). A function that draws random numbers takes a
`numpy.random.Generator`, so that its result depends on the arguments only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.fft
import scipy.signal

from sigmel.files.resampling import resample

_SLOPES = {"white": 0.0, "pink": 0.5, "brown": 1.0}  # amplitude falls with frequency ** -slope


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast: pitch and formants rise together, as those of a smaller speaker."""
    return resample(samples, 16000 * factor, 16000) if factor != 1.0 else samples


def change_tempo(samples: np.ndarray, factor: float, sample_rate: int, window: float = 0.03) -> np.ndarray:
    """Speak `factor` times as fast at the same pitch, by waveform-similarity overlap-add (WSOLA).

    Windows of the input are `factor` times as far apart as windows of the output, and each is shifted by up to half
    a hop to where it best continues the window before (Verhelst & Roelands, 1993).

    Args:
        samples: float32, shape (samples,).
        factor: faster if above 1.
        sample_rate: in Hz.
        window: length of the windows in seconds; should be two periods of the voice.
    """
    hop = int(window * sample_rate / 2)
    size, reach = 2 * hop, hop // 2
    count = int(len(samples) / factor) // hop
    if factor == 1.0 or count < 2:
        return samples
    padded = np.pad(samples, (reach, 2 * size + 2 * reach))
    taper = scipy.signal.windows.hann(size, sym=False).astype(np.float32)
    output = np.zeros((count + 1) * hop, np.float32)
    position = 0
    for index in range(count):
        target = min(int(index * hop * factor), len(samples))
        if index:
            expected = padded[position + hop : position + hop + size]  # what would follow the last window
            candidates = padded[target : target + size + 2 * reach]
            position = target + int(np.argmax(np.correlate(candidates, expected, "valid")))
        else:
            position = reach
        output[index * hop : index * hop + size] += taper * padded[position : position + size]
    output[:hop] += (1.0 - taper[:hop]) * samples[:hop]
    return output


def shift_formants(samples: np.ndarray, factor: float, sample_rate: int) -> np.ndarray:
    """Stretch the spectral envelope by `factor` and keep the pitch: above 1, as of a shorter vocal tract.

    The envelope of each short-time spectrum is its cepstrum below 2 ms; the spectrum is multiplied by the ratio of
    the stretched envelope to the original envelope.
    """
    hop = int(0.016 * sample_rate)
    size = 2 * hop
    if factor == 1.0 or len(samples) < size:
        return samples
    window = np.sqrt(scipy.signal.windows.hann(size, sym=False)).astype(np.float32)
    count = -(-len(samples) // hop) + 1
    padded = np.pad(samples, (hop, count * hop - len(samples)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]  # (count, size)
    spectrum = scipy.fft.rfft(frames * window)
    cepstrum = scipy.fft.irfft(np.log(np.abs(spectrum) + 1e-5), size)
    lifter = int(0.002 * sample_rate)
    cepstrum[:, lifter : size - lifter + 1] = 0.0
    envelope = scipy.fft.rfft(cepstrum).real  # (count, hop + 1), natural log
    source = np.minimum(np.arange(hop + 1) / factor, hop).astype(np.float32)
    low = source.astype(int)
    high = np.minimum(low + 1, hop)
    stretched = envelope[:, low] + (source - low) * (envelope[:, high] - envelope[:, low])
    gain = np.exp(np.clip(stretched - envelope, -3.5, 3.5))  # 30 dB at most
    shifted = scipy.fft.irfft(spectrum * gain, size) * window
    output = np.zeros((count + 1, hop), np.float32)
    output[:count] += shifted[:, :hop]
    output[1:] += shifted[:, hop:]
    return output.reshape(-1)[hop : hop + len(samples)]


def reverberate(samples: np.ndarray, rng: np.random.Generator, sample_rate: int, seconds: float) -> np.ndarray:
    """Add a room: the direct sound, then a few early echoes and a tail of noise that falls 60 dB in `seconds`.

    The result has the length and the loudness of the input.
    """
    length = max(int(seconds * sample_rate), 2)
    time = np.arange(length) / sample_rate
    response = rng.standard_normal(length) * np.exp(-6.9 * time / seconds)
    response = scipy.signal.lfilter([0.6], [1.0, -0.4], response)  # walls swallow high frequencies
    response[: int(0.004 * sample_rate)] = 0.0
    for echo in rng.integers(int(0.003 * sample_rate), max(int(0.03 * sample_rate), 2), size=4):
        response[min(echo, length - 1)] += rng.uniform(-3.0, 3.0)
    response *= rng.uniform(0.3, 0.9) / np.sqrt(np.sum(response**2) + 1e-12)
    response[0] = 1.0
    wet = scipy.signal.oaconvolve(samples, response.astype(np.float32))[: len(samples)]
    return (wet * (rms(samples) / (rms(wet) + 1e-9))).astype(np.float32)


def coloured_noise(length: int, rng: np.random.Generator, colour: str = "white") -> np.ndarray:
    """Noise of unit power whose spectrum is flat (white) or falls by 3 (pink) or 6 (brown) dB an octave.

    Raises:
        ValueError: an unknown colour.
    """
    if colour not in _SLOPES:
        raise ValueError(f"colour must be one of {', '.join(_SLOPES)}, not {colour!r}")
    size = scipy.fft.next_fast_len(max(length, 16), real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size).astype(np.float32))
    bins = np.maximum(np.arange(len(spectrum), dtype=np.float32), 1.0 + len(spectrum) / 200)  # flat below 1/200
    noise = scipy.fft.irfft(spectrum * bins ** -_SLOPES[colour], size)[:length]
    return (noise / (rms(noise) + 1e-9)).astype(np.float32)


def babble(voices: Sequence[np.ndarray], length: int, rng: np.random.Generator) -> np.ndarray:
    """People talking at once, of unit power: the sum of the voices, each repeated from a random point."""
    total = np.zeros(length, np.float32)
    for voice in voices:
        if len(voice):
            start = int(rng.integers(len(voice)))
            total += np.resize(np.roll(voice, -start), length) / (rms(voice) + 1e-9)
    return total / (rms(total) + 1e-9)


def add_noise(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise of the same length at a signal-to-noise ratio in dB, measured over the whole recording."""
    return samples + noise * (rms(samples) / (rms(noise) + 1e-9) * 10.0 ** (-snr / 20.0))


def equalize(samples: np.ndarray, rng: np.random.Generator, sample_rate: int, strength: float = 6.0) -> np.ndarray:
    """Apply a random smooth frequency response, as of another microphone.

    The response is drawn at seven frequencies evenly spaced on the mel scale, with a standard deviation of
    `strength` / 2 dB about a random tilt, which has this standard deviation, too.
    """
    size = scipy.fft.next_fast_len(len(samples) + 1024, real=True)
    spectrum = scipy.fft.rfft(samples, size)
    mel = np.log1p(np.linspace(0.0, sample_rate / 2, len(spectrum)) / 700.0)
    points = np.linspace(0.0, mel[-1], 7)
    tilt = rng.normal(0.0, strength / 2) * np.linspace(-1.0, 1.0, 7)
    gain = np.interp(mel, points, tilt + rng.normal(0.0, strength / 2, 7))
    return scipy.fft.irfft(spectrum * 10.0 ** (gain / 20.0), size)[: len(samples)].astype(np.float32)


def band_limit(samples: np.ndarray, sample_rate: int, low: float = 300.0, high: float = 3400.0) -> np.ndarray:
    """Keep the band from `low` to `high` Hz, by default that of a telephone."""
    high = min(high, 0.49 * sample_rate)
    sections = scipy.signal.butter(4, [low, high], "bandpass", fs=sample_rate, output="sos")
    return scipy.signal.sosfilt(sections, samples).astype(np.float32)


def clip(samples: np.ndarray, fraction: float) -> np.ndarray:
    """Clip the loudest `fraction` of the samples, as an overdriven microphone does."""
    limit = np.quantile(np.abs(samples), 1.0 - fraction)
    return np.clip(samples, -limit, limit)


def set_level(samples: np.ndarray, peak: float) -> np.ndarray:
    """Scale to a peak between 0 and 1; silence stays silence."""
    return samples * np.float32(peak / max(np.abs(samples).max(initial=0.0), 1e-9))


def rms(samples: np.ndarray) -> float:
    """Root mean square; 0 for an empty array."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def vary_voice(samples: np.ndarray, rng: np.random.Generator, sample_rate: int, widest: float) -> np.ndarray:
    """Simulate another speaker: a vocal tract up to `widest` times shorter or longer, another pitch and tempo."""
    tract = np.exp(rng.uniform(-1.0, 1.0) * np.log(widest))
    pitch = np.clip(tract * np.exp(rng.normal(0.0, 0.1)), 0.8, 1.25)
    tempo = rng.uniform(0.85, 1.15)
    samples = change_speed(samples, pitch)  # moves pitch, formants and tempo alike
    samples = shift_formants(samples, tract / pitch, sample_rate)
    return change_tempo(samples, tempo / pitch, sample_rate)


def vary_room(samples: np.ndarray, rng: np.random.Generator, sample_rate: int) -> np.ndarray:
    """Simulate another microphone, room and noise; of one recording in six only the level changes."""
    if rng.random() > 1 / 6:
        if rng.random() < 0.7:
            samples = equalize(samples, rng, sample_rate)
        if rng.random() < 0.1:
            samples = band_limit(samples, sample_rate)
        if rng.random() < 0.3:
            samples = reverberate(samples, rng, sample_rate, rng.uniform(0.1, 0.5))
        if rng.random() < 0.7:
            colour = ("white", "pink", "brown")[rng.integers(3)]
            noise = coloured_noise(len(samples), rng, colour)
            samples = add_noise(samples, noise, rng.uniform(5.0, 40.0))
        if rng.random() < 0.05:
            samples = clip(samples, rng.uniform(0.001, 0.02))
    return set_level(samples, 10.0 ** rng.uniform(-1.3, -0.02))
