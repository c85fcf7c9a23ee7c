#!/usr/bin/env python3
"""Data of the espeak_commands recipe: spoken commands, made on the spot by eSpeak NG; nothing to download.

The sentences come from the grammar in `sigmel.recipes.corpora.commands`. The sets share neither sentences nor voices:

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

With ``--voices en-us+f3,en-us+m4`` all sets but test_ood, which is not made, are spoken by these voices at their usual
speed and pitch, and nothing is done to the sound: to learn to speak.

The output folder holds ``wav/``, a manifest for each set, ``skipped.jsonl`` (empty here) and ``config.json``. It
depends on the options and the seed only, not on the number of processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigmel.errors import exit_status
from sigmel.files.audio import write_wav
from sigmel.files.manifest import Utterance
from sigmel.files.resampling import resample
from sigmel.recipes import augment
from sigmel.recipes.corpora import commands
from sigmel.recipes.corpora.espeak import SAMPLE_RATE as ESPEAK_RATE
from sigmel.recipes.corpora.espeak import EspeakVoice
from sigmel.recipes.stage import add_seed, add_sizes, data_folder, make_sets, stage_parser

SAMPLE_RATE = 16000
ACCENTS = ("en", "en-us", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd")
OOD_ACCENTS = ("en-gb-scotland", "en-029", "en-us-nyc")
NOISES = ("white", "pink", "brown")
# Parts of a hundred of all sentences.
SENTENCES = {"train": range(80), "dev": range(80, 85), "test": range(85, 100), "test_ood": range(85, 100)}


class Context(NamedTuple):
    """What all utterances are made from."""

    folder: Path
    voices: tuple[str, ...]  # empty: those of the set, varied


class Job(NamedTuple):
    """One utterance to be made."""

    id: str
    set: str
    text: str
    seed: tuple[int, ...]


def plan(sizes: dict[str, int], seed: int) -> dict[str, list[Job]]:
    """The sentences of each set. Those of dev and the tests are all different.

    Raises:
        SigmelError: the grammar does not have as many sentences as a set asks for.
    """
    jobs: dict[str, list[Job]] = {}
    used: set[str] = set()
    for number, (name, size) in enumerate(sizes.items()):
        rng = np.random.default_rng((seed, number))
        jobs[name] = []
        for index in range(size):
            text = commands.unused_sentence(rng, SENTENCES[name], used)
            if name != "train":
                used.add(text)
            jobs[name].append(Job(f"{name}-{index:05d}", name, text, (seed, number, index)))
    return jobs


def make(context: Context, job: Job) -> Utterance:
    """Speak one sentence, write its WAV file and return its row of the manifest."""
    rng = np.random.default_rng(job.seed)
    if context.voices:
        voice, extra = context.voices[rng.integers(len(context.voices))], {}
        with EspeakVoice(voice) as speaker:
            samples = with_edges(resample(speaker.say(job.text), ESPEAK_RATE, SAMPLE_RATE), rng)
    else:
        voice, samples, extra = vary(job, rng)
    file = f"wav/{job.id}.wav"
    write_wav(context.folder / file, samples, SAMPLE_RATE)
    return Utterance(job.id, file, round(len(samples) / SAMPLE_RATE, 4), job.text, voice, extra)


def vary(job: Job, rng: np.random.Generator) -> tuple[str, np.ndarray, dict[str, object]]:
    """Voice, samples, and what there is to say of the noise, of a sentence spoken at random as its set is."""
    unseen = job.set == "test_ood"
    speakers = commands.speakers(job.set.removesuffix("_ood"))

    def speak(text: str, accents: Sequence[str]) -> commands.Said:
        return commands.speak(text, accents, speakers, rng, SAMPLE_RATE)

    voice, samples, _ = speak(job.text, OOD_ACCENTS if unseen else ACCENTS)
    samples = with_edges(samples, rng)
    extra: dict[str, object] = {}
    if rng.random() < 0.3 or unseen:
        samples = augment.reverberate(samples, rng, SAMPLE_RATE, rng.uniform(0.1, 0.5))
    if unseen:
        others = [speak(commands.sentence(rng), OOD_ACCENTS).samples for _ in range(4)]
        extra = {"noise": "babble", "snr": round(rng.uniform(3.0, 15.0), 1)}
        samples = augment.add_noise(samples, augment.babble(others, len(samples), rng), extra["snr"])
    elif rng.random() < 0.6:
        extra = {"noise": NOISES[rng.integers(len(NOISES))], "snr": round(rng.uniform(10.0, 40.0), 1)}
        noise = augment.coloured_noise(len(samples), rng, extra["noise"])
        samples = augment.add_noise(samples, noise, extra["snr"])
    return voice, augment.set_level(samples, 10.0 ** rng.uniform(-1.0, -0.05)), extra


def with_edges(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a moment of silence before and after it."""
    return np.pad(samples, tuple(int(edge) for edge in rng.uniform(0.05, 0.3, size=2) * SAMPLE_RATE))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser("espeak_commands")
    add_seed(parser)
    add_sizes(parser, train=6000, dev=200, test=500)
    parser.add_argument("--voices", default="", help="of eSpeak NG, with commas, that speak all; default: many")
    return parser.parse_args(argv)


def build(options: argparse.Namespace) -> None:
    kept_options = {name: getattr(options, name) for name in ("train", "dev", "test", "voices", "seed")}
    voices = tuple(voice for voice in options.voices.split(",") if voice)
    with data_folder(options.output, kept_options) as folder:
        if folder is None:
            return
        sizes = {"train": options.train, "dev": options.dev, "test": options.test}
        if not voices:
            sizes["test_ood"] = options.test
        make_sets(folder, make, Context(folder, voices), plan(sizes, options.seed), options.workers)


if __name__ == "__main__":
    arguments = parse(None)
    sys.exit(exit_status(lambda: build(arguments)))
