#!/usr/bin/env python3
"""What is left of speech in log-mel, and in dMel of 2 to 6 bits, when sound is made of it without a trained vocoder.

PESQ (wide band) and STOI against the sound that went in: clean speech, speech with music-like chords 10 dB below it,
and with another talker 5 dB below. Needs a folder of recordings (LJSpeech's wavs/, say), and pesq and pystoi (pip).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from side_by_side import machine
from torch import Tensor
from tqdm import tqdm

from sigmel.data.atomic import atomic_path
from sigmel.data.audio import read_audio
from sigmel.errors import SigmelError
from sigmel.features.dmel import DMelTokenizer
from sigmel.features.phase import PhaseReconstruction
from sigmel.table import table

RATE = 16000
HEAD = ["sound", "form", "hop, ms", "PESQ", "STOI"]


def chords(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Chords of four notes with overtones, half a second each."""
    length, notes = RATE // 2, 220 * 2 ** (np.array([0, 4, 7, 12, 16]) / 12)
    time = np.arange(length) / RATE
    pieces = []
    for _ in range(-(-samples // length)):
        chosen = generator.choice(notes, 4, replace=False) * 2 ** (generator.integers(-5, 6) / 12)
        sound = sum(np.sin(2 * np.pi * note * k * time) / k for note in chosen for k in range(1, 6))
        pieces.append(sound * np.exp(-2 * time))
    return np.concatenate(pieces)[:samples]


def added(speech: np.ndarray, other: np.ndarray, decibels: float) -> np.ndarray:
    """Speech with something else that is so much quieter."""
    other = np.resize(other, len(speech))
    return (speech + other * np.sqrt(np.mean(speech**2) / np.mean(other**2)) * 10 ** (-decibels / 20)).astype(
        np.float32
    )


def scores(sound: np.ndarray, again: Tensor) -> tuple[float, float]:
    """PESQ and STOI of what was made, with the sound that went in for a reference."""
    from pesq import pesq
    from pystoi import stoi

    made = again.numpy()
    reference = sound[: len(made)]
    return pesq(RATE, reference, made, "wb"), stoi(reference, made, RATE)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("speech", type=Path, help="folder of recordings")
    parser.add_argument("--count", type=int, default=24, help="recordings, at most; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    paths = sorted(arguments.speech.glob("*.wav"))[: arguments.count]
    if len(paths) < 2:
        raise SigmelError(f"{arguments.speech}: expected at least two recordings (*.wav)")
    speech = [read_audio(path, RATE)[0] for path in paths]
    generator = np.random.default_rng(0)
    sounds = {
        "clean": speech,
        "with chords": [added(x, chords(len(x), generator), 10) for x in speech],
        "with another talker": [added(x, speech[n - 1], 5) for n, x in enumerate(speech)],
    }
    forms = [(25.0, None), *((25.0, bits) for bits in range(2, 7)), (12.5, None), (12.5, 4), (12.5, 6)]
    rows = []
    for (hop, bits), name in tqdm([(form, name) for name in sounds for form in forms]):
        tokenizer = DMelTokenizer(hop_ms=hop, bits=bits or 4)
        vocoder = PhaseReconstruction(tokenizer)
        found = []
        for sound in sounds[name]:
            waveform = torch.from_numpy(sound)
            mel = tokenizer.log_mel(waveform)[0] if bits is None else tokenizer.decode(tokenizer.encode(waveform)[0])
            found.append(scores(sound, vocoder(mel)[0][0]))
        quality, clearness = np.mean(found, axis=0)
        form = "log-mel" if bits is None else f"dMel, {bits} bits"
        rows.append([name, form, f"{hop:g}", f"{quality:.2f}", f"{clearness:.3f}"])
    print(table(HEAD, rows))
    if arguments.json is not None:
        with atomic_path(arguments.json) as temporary:
            facts = machine() | {"recordings": str(len(speech))}
            content = {"machine": facts, "rows": [dict(zip(HEAD, row, strict=True)) for row in rows]}
            temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
