#!/usr/bin/env python3
"""Data of the espeak_commands recipe: spoken commands, made on the spot by eSpeak NG; nothing to download.

The sentences come from the grammar in `sigmel.data.commands`. The sets share neither sentences nor voices:

========= ======================= ================================ ==========================================
set       speakers                accents                          sound
========= ======================= ================================ ==========================================
train     most variants           British, American                clean, or a room and white, pink or brown
                                                                   noise, 10 to 40 dB below the speech
dev       6 others                as train                         as train
test      13 others               as train                         as train
test_ood  those of test           Scottish, Caribbean, New York    a room, and people talking in the
                                                                   background, 3 to 15 dB below the speech
========= ======================= ================================ ==========================================

A sentence belongs to one set by its checksum, so the same sentence never occurs in two of them (test and test_ood
draw from the same part, but no sentence twice). Sampling rate 16 kHz.

The output folder holds ``wav/``, a manifest for each set, ``skipped.jsonl`` (empty here) and ``config.json``. It
depends on the options and the seed only, not on the number of processes.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigmel.data import augment
from sigmel.data.audio import resample, write_wav
from sigmel.data.commands import sentence
from sigmel.data.espeak import SAMPLE_RATE as ESPEAK_RATE
from sigmel.data.espeak import synthesize, variants
from sigmel.data.manifest import Utterance
from sigmel.data.parallel import parallel_map
from sigmel.data.stage import data_folder, write_sets
from sigmel.errors import SigmelError, exit_status

SAMPLE_RATE = 16000
ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
OOD_ACCENTS = ("en-gb-scotland", "en-029", "en-us-nyc")
NOISES = ("white", "pink", "brown")
# Parts of a hundred of all sentences, from the first to before the last.
SENTENCES = {"train": (0, 80), "dev": (80, 85), "test": (85, 100), "test_ood": (85, 100)}


class Job(NamedTuple):
    """One utterance to be made."""

    id: str
    set: str
    text: str
    seed: tuple[int, ...]


def speakers(set_name: str) -> list[str]:
    """The variants of eSpeak NG that speak in a set."""
    parts: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for number, variant in enumerate(variants()):
        parts["test" if number % 8 == 3 else "dev" if number % 16 == 7 else "train"].append(variant)
    return parts[set_name.removesuffix("_ood")]


def part_of(text: str) -> int:
    """The part of a hundred that a sentence belongs to, by its checksum."""
    return zlib.crc32(text.encode()) % 100


def plan(sizes: dict[str, int], seed: int) -> dict[str, list[Job]]:
    """The sentences of each set. Those of dev and the tests are all different.

    Raises:
        SigmelError: the grammar does not have as many sentences as a set asks for.
    """
    jobs: dict[str, list[Job]] = {}
    used: set[str] = set()
    for number, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng((seed, number))
        first, end = SENTENCES[name]
        jobs[name] = []
        misses = 0
        while len(jobs[name]) < size:
            text = sentence(rng)
            if not first <= part_of(text) < end or text in used:
                misses += 1
                if misses > 1000 + 200 * size:
                    raise SigmelError(f"--{name.replace('_', '-')}: the grammar has no {size} different sentences")
                continue
            if name != "train":
                used.add(text)
            jobs[name].append(Job(f"{name}-{len(jobs[name]):05d}", name, text, (seed, number, len(jobs[name]))))
    return jobs


def make(folder: Path, job: Job) -> Utterance:
    """Speak one sentence, write its WAV file and return its row of the manifest."""
    rng = np.random.default_rng(job.seed)
    unseen = job.set == "test_ood"
    voice, samples = speak(job.text, OOD_ACCENTS if unseen else ACCENTS, speakers(job.set), rng)
    edges = rng.uniform(0.05, 0.3, size=2) * SAMPLE_RATE
    samples = np.pad(samples, tuple(int(edge) for edge in edges))
    extra: dict[str, object] = {}
    if rng.random() < 0.3 or unseen:
        samples = augment.reverberate(samples, rng, SAMPLE_RATE, rng.uniform(0.1, 0.5))
    if unseen:
        others = [speak(sentence(rng), OOD_ACCENTS, speakers(job.set), rng)[1] for _ in range(4)]
        extra = {"noise": "babble", "snr": round(rng.uniform(3.0, 15.0), 1)}
        samples = augment.add_noise(samples, augment.babble(others, len(samples), rng), extra["snr"])
    elif rng.random() < 0.6:
        extra = {"noise": NOISES[rng.integers(len(NOISES))], "snr": round(rng.uniform(10.0, 40.0), 1)}
        noise = augment.coloured_noise(len(samples), rng, extra["noise"])
        samples = augment.add_noise(samples, noise, extra["snr"])
    samples = augment.set_level(samples, 10.0 ** rng.uniform(-1.0, -0.05))
    file = f"wav/{job.id}.wav"
    write_wav(folder / file, samples, SAMPLE_RATE)
    return Utterance(job.id, file, round(len(samples) / SAMPLE_RATE, 4), job.text, voice, extra)


def speak(
    text: str, accents: Sequence[str], variants: Sequence[str], rng: np.random.Generator
) -> tuple[str, np.ndarray]:
    """Have a random voice say a text; return its name and the samples at 16 kHz."""
    voice = f"{accents[rng.integers(len(accents))]}+{variants[rng.integers(len(variants))]}"
    samples = synthesize(
        text,
        voice,
        speed=int(rng.integers(130, 221)),
        pitch=int(rng.integers(15, 86)),
        pitch_range=int(rng.integers(20, 81)),
    )
    return voice, resample(samples, ESPEAK_RATE, SAMPLE_RATE)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the data of the espeak_commands recipe.")
    parser.add_argument("--output", type=Path, required=True, help="folder to make; left alone where it is complete")
    parser.add_argument("--train", type=int, default=6000, help="training utterances (default: %(default)s)")
    parser.add_argument("--dev", type=int, default=200, help="utterances to look on (default: %(default)s)")
    parser.add_argument("--test", type=int, default=500, help="utterances of each test (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes; default: one a CPU")
    options = parser.parse_args(argv)
    for name in ("train", "dev", "test"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.seed < 0:
        parser.error("--seed must not be negative")
    return options


def build(options: argparse.Namespace) -> None:
    kept_options = {name: getattr(options, name) for name in ("train", "dev", "test", "seed")}
    with data_folder(options.output, kept_options) as folder:
        if folder is None:
            return
        sizes = {"train": options.train, "dev": options.dev, "test": options.test, "test_ood": options.test}
        (folder / "wav").mkdir()
        sets = {
            name: list(parallel_map(make, folder, jobs, options.workers, name))
            for name, jobs in plan(sizes, options.seed).items()
        }
        write_sets(folder, sets, skipped=[])


if __name__ == "__main__":
    arguments = parse(None)
    sys.exit(exit_status(lambda: build(arguments)))
