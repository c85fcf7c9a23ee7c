"""The Free Spoken Digit Dataset: recordings of single digits, and strings made of these recordings.

https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0: recordings `{digit}_{speaker}_{index}.wav`,
8 kHz, 50 of each digit by each speaker.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigmel.errors import SigmelError
from sigmel.files.audio import AudioError, check_audio, read_audio
from sigmel.files.manifest import Row, Utterance
from sigmel.recipes import augment
from sigmel.recipes.download import Archive

ARCHIVE = Archive(  # version 1.0.9 is the one with five speakers; the checksum is TensorFlow Datasets'
    url="https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
    sha256="8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
    folder="fsdd-1.0.9",
    wanted=("recordings/*.wav",),
    option="--fsdd-dir",
)
SAMPLE_RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONGEST = 7  # digits in a string


class Recording(NamedTuple):
    """One recorded digit."""

    digit: int
    speaker: str
    take: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.stem


def find_recordings(folder: Path) -> list[Recording]:
    """All recordings in `folder` or its `recordings` folder, sorted by speaker, digit and index."""
    if not folder.is_dir():
        raise SigmelError(f"--fsdd-dir: {folder} is no folder")
    if (folder / "recordings").is_dir():
        folder = folder / "recordings"
    found = []
    for path in folder.glob("*.wav"):
        match = re.fullmatch(r"(\d)_(.+)_(\d+)", path.stem)
        if match:
            found.append(Recording(int(match[1]), match[2], int(match[3]), path))
    if not found:
        raise SigmelError(f"--fsdd-dir: {folder} holds no recordings {{digit}}_{{speaker}}_{{index}}.wav")
    return sorted(found, key=lambda recording: (recording.speaker, recording.digit, recording.take))


def load(recordings: Iterable[Recording]) -> tuple[list[Recording], dict[str, np.ndarray], list[Row]]:
    """Read and trim recordings: the usable recordings, their samples by name, and those that cannot be used."""
    usable, samples, skipped = [], {}, []
    for recording in recordings:
        try:
            audio, _ = read_audio(recording.path, SAMPLE_RATE)
            fault = check_audio(audio, SAMPLE_RATE)
        except AudioError as error:
            fault = str(error)
        if fault is None:
            usable.append(recording)
            samples[recording.name] = trim(audio)
        else:
            utterance = Utterance(recording.name, str(recording.path), 0.0, WORDS[recording.digit], recording.speaker)
            skipped.append(utterance.to_row() | {"reason": fault})
    return usable, samples, skipped


def trim(samples: np.ndarray, sample_rate: int = SAMPLE_RATE, depth: float = 40.0, margin: float = 0.03) -> np.ndarray:
    """Cut silence from both ends: all frames `depth` dB below the loudest 10 ms, except `margin` seconds."""
    hop = sample_rate // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    power = np.square(frames).mean(axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-depth / 10))
    if not len(loud):
        return samples
    keep = int(margin * sample_rate)
    return samples[max(loud[0] * hop - keep, 0) : (loud[-1] + 1) * hop + keep]


def by_speaker(recordings: Iterable[Recording]) -> dict[str, list[Recording]]:
    """The recordings of each speaker."""
    found = defaultdict(list)
    for recording in recordings:
        found[recording.speaker].append(recording)
    return found


def words(digits: Iterable[int]) -> str:
    """The transcript of a string."""
    return " ".join(WORDS[digit] for digit in digits)


def even_strings(recordings: Iterable[Recording], passes: int, seed: tuple[int, ...]) -> Iterator[list[Recording]]:
    """Strings that use every recording `passes` times: recordings of a speaker, shuffled and cut at random."""
    rng = np.random.default_rng(seed)
    for own in by_speaker(recordings).values():
        for _ in range(passes):
            rest = [own[i] for i in rng.permutation(len(own))]
            while rest:
                length = int(rng.integers(1, LONGEST + 1))
                part, rest = rest[:length], rest[length:]
                yield part


def join(parts: Sequence[np.ndarray], rng: np.random.Generator, loose: bool = False) -> np.ndarray:
    """Join recordings with short fades and natural gaps, over quiet noise.

    Most gaps are 30 to 300 ms, one in seven is a pause of up to 700 ms. `loose` draws from a wider range.
    """
    low, usual, long = (0.0, 0.4, 1.0) if loose else (0.03, 0.3, 0.7)
    fade = np.linspace(0.0, 1.0, SAMPLE_RATE // 200, dtype=np.float32)
    pieces = []
    for number, part in enumerate(parts):
        longest = long if rng.random() < 1 / 7 else usual
        gap = rng.uniform(low, longest) if number else rng.uniform(0.05, usual)
        faded = part.copy()
        faded[: len(fade)] *= fade[: len(faded)]
        faded[-len(fade) :] *= fade[::-1][-len(faded) :]
        pieces += [np.zeros(int(gap * SAMPLE_RATE), np.float32), faded]
    pieces.append(np.zeros(int(rng.uniform(0.05, usual) * SAMPLE_RATE), np.float32))
    joined = np.concatenate(pieces)
    floor = 0.5 * np.median([floor_level(part) for part in parts])
    return joined + floor * augment.coloured_noise(len(joined), rng, "pink")


def floor_level(samples: np.ndarray) -> float:
    """The level of the quietest tenth of the 10 ms frames: background, or the fading end of a word."""
    hop = SAMPLE_RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    return float(np.quantile(np.sqrt(np.square(frames).mean(axis=1)), 0.1)) if len(frames) else 0.0
