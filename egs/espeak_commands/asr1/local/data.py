#!/usr/bin/env python3
"""Data of the espeak_commands recipe: spoken commands, made on the spot by eSpeak NG; nothing to download.

The sentences come from the grammar in `sigmel.recipes.corpora.commands`. The sets share neither sentences nor voices:

========= ======================= ================================ ==========================================
set       speakers                accents                          sound
========= ======================= ================================ ==========================================
train     most variants           British, American                clean, or a room and white, pink or brown
                                                                   noise, 10 to 40 dB below the speech
dev       6 other variants        as train                         as train
test      13 other variants       as train                         as train
test_ood  as test                 Scottish, Caribbean, New York    a room, and people talking in the
                                                                   background, 3 to 15 dB below the speech
========= ======================= ================================ ==========================================

The checksum of a sentence decides its set, so no sentence occurs in two sets (test and test_ood share sentences of one
kind, but take none twice). Sampling rate 16 kHz.

`--voices en-us+f3,en-us+m4` is for learning to speak: these voices speak all sets at their usual speed and pitch, the
sound is not changed, and there is no test_ood.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmel.errors import exit_status
from sigmel.recipes import at_least, augment
from sigmel.recipes.corpora import commands
from sigmel.recipes.corpora.espeak import EspeakVoice
from sigmel.recipes.corpus_builder import Plan, Sound, build_corpus, corpus_parser

SAMPLE_RATE = 16000
ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
OOD_ACCENTS = ("en-gb-scotland", "en-029", "en-us-nyc")
NOISES = ("white", "pink", "brown")


class Job(NamedTuple):
    """One utterance to be made."""

    id: str
    set: str
    text: str
    seed: tuple[int, ...]


def plan(options: argparse.Namespace) -> Plan:
    """The sentences of each set; no sentence of dev and the tests occurs twice.

    Raises:
        SigmelError: the grammar has too few sentences.
    """
    sizes = {"train": options.train, "dev": options.dev, "test": options.test}
    voices = [voice for voice in options.voices.split(",") if voice]
    if not voices:
        sizes["test_ood"] = options.test
    jobs: dict[str, list[Job]] = {}
    used: set[str] = set()
    for number, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng((options.seed, number))
        jobs[name] = [
            Job(f"{name}-{index:05d}", name, text, (options.seed, number, index))
            for index, text in enumerate(commands.sentences(name, size, rng, used))
        ]
    return Plan(jobs, voices)


def make(voices: Sequence[str], job: Job) -> Sound:
    """Have one of the given voices say a sentence, or a voice of its set if no voices are given."""
    rng = np.random.default_rng(job.seed)
    if not voices:
        return vary(job, rng)
    voice = voices[rng.integers(len(voices))]
    with EspeakVoice(voice, sample_rate=SAMPLE_RATE) as speaker:
        samples = speaker.say(job.text)
    return Sound(with_edges(samples, rng), job.text, voice)


def vary(job: Job, rng: np.random.Generator) -> Sound:
    """A sentence with the random voice, room and noise of its set; the manifest names the noise."""
    unseen = job.set == "test_ood"
    speakers = commands.speakers(job.set)
    accents = OOD_ACCENTS if unseen else ACCENTS
    voice, spoken = commands.speak(job.text, accents, speakers, rng, SAMPLE_RATE)
    samples = with_edges(spoken.samples, rng)
    extra: dict[str, object] = {}
    if rng.random() < 0.3 or unseen:
        samples = augment.reverberate(samples, rng, SAMPLE_RATE, rng.uniform(0.1, 0.5))
    if unseen:
        others = commands.crowd(accents, speakers, rng, SAMPLE_RATE)
        extra = {"noise": "babble", "snr": round(rng.uniform(3.0, 15.0), 1)}
        samples = augment.add_noise(samples, augment.babble(others, len(samples), rng), extra["snr"])
    elif rng.random() < 0.6:
        extra = {"noise": NOISES[rng.integers(len(NOISES))], "snr": round(rng.uniform(10.0, 40.0), 1)}
        noise = augment.coloured_noise(len(samples), rng, extra["noise"])
        samples = augment.add_noise(samples, noise, extra["snr"])
    return Sound(augment.set_level(samples, 10.0 ** rng.uniform(-1.0, -0.05)), job.text, voice, extra)


def with_edges(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Speech with a moment of silence before and after."""
    return np.pad(samples, tuple(int(edge) for edge in rng.uniform(0.05, 0.3, size=2) * SAMPLE_RATE))


def main(argv: Sequence[str] | None = None) -> None:
    parser = corpus_parser(__file__)
    parser.add_argument("--train", type=at_least(1), default=6000, help="training utterances (default: 6000)")
    parser.add_argument("--dev", type=at_least(1), default=200, help="development utterances (default: 200)")
    parser.add_argument("--test", type=at_least(1), default=500, help="utterances of each test (default: 500)")
    parser.add_argument("--voices", default="", help="voices of eSpeak NG, with commas (default: many, varied)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the random numbers (default: 0)")
    build_corpus(parser.parse_args(argv), plan, make, SAMPLE_RATE)


if __name__ == "__main__":
    sys.exit(exit_status(main))
