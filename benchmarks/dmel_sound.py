#!/usr/bin/env python3
"""The quality of sound made of log-mel, and of dMel of 2 to 6 bits, without a trained vocoder.

Mel-cepstral distortion, PESQ and STOI against the sound that went in, and the word error rate of a recogniser: clean
speech, speech with music-like chords 10 dB below it, and with another talker 5 dB below. Needs recordings (LJSpeech's
wavs/, or a manifest with texts), and pesq and pystoi (pip).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from harness import options, report
from scipy.fft import dct
from torch import Tensor
from tqdm import tqdm

from sigmel.errors import SigmelError, exit_status, optional_library
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.vocoder import make_vocoder
from sigmel.files.audio import read_audio
from sigmel.files.resampling import resample
from sigmel.files.sources import read_source
from sigmel.recipes import at_least
from sigmel.scoring.error_rates import error_rate

HEAD = ["sound", "form", "hop, ms", "MCD, dB", "PESQ", "STOI", "WER, %"]
FORMS = [(25.0, None), *((25.0, bits) for bits in range(2, 7)), (12.5, None), (12.5, 4), (12.5, 6)]
CEPSTRA = 13  # coefficients that are compared, without the loudness

Recogniser = Callable[[Sequence[np.ndarray]], list[str]]


def chords(samples: int, generator: np.random.Generator, rate: int) -> np.ndarray:
    """Chords of four notes with overtones, half a second each."""
    length, notes = rate // 2, 220 * 2 ** (np.array([0, 4, 7, 12, 16]) / 12)
    time = np.arange(length) / rate
    pieces = []
    for _ in range(-(-samples // length)):
        chosen = generator.choice(notes, 4, replace=False) * 2 ** (generator.integers(-5, 6) / 12)
        sound = sum(np.sin(2 * np.pi * note * k * time) / k for note in chosen for k in range(1, 6))
        pieces.append(sound * np.exp(-2 * time))
    return np.concatenate(pieces)[:samples]


def added(speech: np.ndarray, other: np.ndarray, decibels: float) -> np.ndarray:
    """Speech with another sound, a number of decibels quieter."""
    other = np.resize(other, len(speech))
    return (speech + other * np.sqrt(np.mean(speech**2) / np.mean(other**2)) * 10 ** (-decibels / 20)).astype(
        np.float32
    )


def kept(tokenizer: DMelTokenizer, sound: np.ndarray, rounded: bool) -> Tensor:
    """(1, T, C) log-mel of a sound, or of its tokens if rounded."""
    waveform = torch.from_numpy(sound)
    return tokenizer.decode(tokenizer.encode(waveform)[0]) if rounded else tokenizer.log_mel(waveform)[0]


def distortion(sound: np.ndarray, made: np.ndarray, rate: int) -> float:
    """Mel-cepstral distortion in dB (Kubichek, 1993), over frames 12.5 ms apart, without silence."""
    tokenizer = DMelTokenizer(rate, hop_ms=12.5)
    mel, other = (tokenizer.log_mel(torch.from_numpy(x))[0][0].double().numpy() for x in (sound, made))
    mel, other = mel[: len(other)], other[: len(mel)]
    loud = mel.max(1) > mel.max() - 3  # within 60 dB of the loudest
    cepstra, others = (dct(np.log(10) * x[loud], norm="ortho")[:, 1 : CEPSTRA + 1] for x in (mel, other))
    # Of an orthonormal transform over C channels, coefficients are sqrt(C / 2) times those of the definition.
    difference = (cepstra - others) / np.sqrt(mel.shape[1] / 2)
    return float(np.mean(10 / np.log(10) * np.sqrt(2 * np.square(difference).sum(1))))


def likeness(sound: np.ndarray, made: np.ndarray, rate: int) -> list[float]:
    """MCD, PESQ (wide band of 16 kHz, narrow of 8) and STOI of what was made of a sound."""
    from pesq import NoUtterancesError, pesq
    from pystoi import stoi

    sound = sound[: len(made)]
    try:
        quality = pesq(rate, sound, made, "wb" if rate == 16000 else "nb")
    except NoUtterancesError:  # too short, or too quiet, for its detector of speech
        quality = np.nan
    return [distortion(sound, made, rate), quality, stoi(sound, made, rate)]


def nemo_recogniser(path: Path, rate: int) -> Recogniser:
    """The texts that a `.nemo` model finds in sounds."""
    from sigmel.recipes.nemo.transcribe import load

    model = load(path)

    def recognise(sounds: Sequence[np.ndarray]) -> list[str]:
        heard = [resample(samples.astype(np.float32), rate, model.sample_rate) for samples in sounds]
        return [found.text for found in model.transcribe(heard[at : at + 16] for at in range(0, len(heard), 16))]

    return recognise


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("speech", type=Path, help="folder of recordings, or a manifest")
    parser.add_argument("--count", type=at_least(2), default=24, help="recordings, at most; default: %(default)s")
    parser.add_argument(
        "--sample-rate", type=int, choices=(8000, 16000), default=16000, help="Hz; default: %(default)s"
    )
    parser.add_argument("--recogniser", type=Path, help="a .nemo model, whose word error rate is measured too")


def main() -> None:
    """Make the table."""
    args = options(__doc__, add_arguments)
    optional_library("pesq", "the quality of sounds needs", "pip install pesq")
    optional_library("pystoi", "the clearness of sounds needs", "pip install pystoi")
    utterances = read_source(args.speech)[: 2 if args.quick else args.count]
    if len(utterances) < 2:
        raise SigmelError(f"{args.speech}: expected at least two recordings")
    rate = args.sample_rate
    speech = [read_audio(utterance.audio_filepath, rate)[0] for utterance in utterances]
    recognise = None if args.recogniser is None else nemo_recogniser(args.recogniser, rate)
    if recognise and not all(utterance.text for utterance in utterances):
        raise SigmelError(f"{args.speech}: --recogniser needs recordings with texts (a manifest)")

    def errors(sounds: Sequence[np.ndarray]) -> str:
        if recognise is None:
            return ""
        texts = [utterance.text.split() for utterance in utterances]
        return f"{error_rate(texts, [text.split() for text in recognise(sounds)]).percent:.1f}"

    generator = np.random.default_rng(0)
    sets = {
        "clean": speech,
        "with chords": [added(x, chords(len(x), generator, rate), 10) for x in speech],
        "with another talker": [added(x, speech[n - 1], 5) for n, x in enumerate(speech)],
    }
    rows = []
    with tqdm(total=len(sets) * len(FORMS)) as bar:
        for name, sounds in sets.items():
            if recognise:
                rows.append([name, "as it is", "", "", "", "", errors(sounds)])
            for hop, bits in FORMS:
                tokenizer = DMelTokenizer(rate, hop_ms=hop, bits=bits or 4)
                vocoder = make_vocoder(tokenizer)
                made = [vocoder(kept(tokenizer, sound, bits is not None))[0][0].numpy() for sound in sounds]
                found = [likeness(*pair, rate) for pair in zip(sounds, made, strict=True)]
                distorted, quality, clearness = np.nanmean(found, axis=0)
                form = "log-mel" if bits is None else f"dMel, {bits} bits"
                figures = [f"{distorted:.1f}", f"{quality:.2f}", f"{clearness:.3f}", errors(made)]
                rows.append([name, form, f"{hop:g}", *figures])
                bar.update()
    facts = {"recordings": len(speech), "sample_rate": rate}
    report([dict(zip(HEAD, row, strict=True)) for row in rows], args.json, **facts)


if __name__ == "__main__":
    sys.exit(exit_status(main))
