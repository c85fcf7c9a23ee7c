#!/usr/bin/env python3
"""Data of the espeak_multidomain recipe: five domains to train on, and eight test sets outside of them.

A domain is what is said (rules of the grammar in `sigmel.recipes.corpora.commands`), in which accents, how fast, and
through what. Four are spoken by eSpeak NG, the fifth is real: strings of digits of the Free Spoken Digit Dataset
(`sigmel.recipes.corpora.fsdd`), by the speakers other than `HELD_OUT`. Each makes a fifth of train, dev and test.

================ =====================================================================================
set              what it is
================ =====================================================================================
train, dev, test the five domains; they share neither sentences, voices nor recordings of digits
ood_accent       accents that are not in training: Scottish, Caribbean, New York
ood_fast         250 to 320 words a minute; training has 120 to 220
ood_babble       people talking in the background, 0 to 10 dB below the speech
ood_room         a large room: 0.8 to 1.5 s to fall by 60 dB; training has at most 0.6 s
ood_channel      a bad microphone, overdriven
ood_vocabulary   sentences of rules that are not in training, with some new words
real_<speaker>   real speech: digits by a speaker who is not in training
================ =====================================================================================

The sets `ood_*` have the accents, speeds and sound of the domain "home", the voices of test, and sentences of all four
synthetic domains, except for the one thing that gives the set its name. Sampling rate 8 kHz.

Rows of synthetic tests tell, as `phones`, when each phone is spoken, for `sigmel routing`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from sigmel.errors import SigmelError, exit_status
from sigmel.recipes import at_least, augment
from sigmel.recipes.corpora import commands, fsdd
from sigmel.recipes.corpora.fsdd import SAMPLE_RATE, Recording
from sigmel.recipes.corpus_builder import Plan, Sound, build_corpus, corpus_parser, source

HELD_OUT = ("jackson", "nicolas")
UNSEEN_ACCENTS = ("en-gb-scotland", "en-029", "en-us-nyc")
UNSEEN_RULES = ("cooking", "question", "security", "cleaning")
# The recordings of each digit that go to each set.
RECORDINGS = {"train": range(8, 1000), "dev": range(5, 8), "test": range(0, 5)}

Channel = Callable[[np.ndarray, np.random.Generator], np.ndarray]


class Domain(NamedTuple):
    """What is said, how, and through what."""

    rules: tuple[str, ...]
    accents: tuple[str, ...]
    speeds: tuple[int, int]  # words a minute
    channel: Channel


class Job(NamedTuple):
    """One utterance to be made."""

    id: str
    set: str
    domain: str
    text: str
    recordings: Sequence[Recording]  # empty: eSpeak NG
    seed: tuple[int, ...]


# --- the domains


def noisy(samples: np.ndarray, rng: np.random.Generator, colour: str, low: float, high: float) -> np.ndarray:
    """Add noise between `low` and `high` dB below the speech."""
    return augment.add_noise(samples, augment.coloured_noise(len(samples), rng, colour), rng.uniform(low, high))


def in_room(samples: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Add a room in which sound takes between `low` and `high` seconds to fall by 60 dB."""
    return augment.reverberate(samples, rng, SAMPLE_RATE, rng.uniform(low, high))


def quiet_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return noisy(in_room(samples, rng, 0.1, 0.3), rng, "white", 20.0, 40.0)


def telephone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return augment.band_limit(noisy(samples, rng, "pink", 10.0, 30.0), SAMPLE_RATE)


def hall(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return augment.equalize(in_room(samples, rng, 0.3, 0.6), rng, SAMPLE_RATE)


def babble(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    others = commands.crowd(DOMAINS["home"].accents, commands.speakers("test"), rng, SAMPLE_RATE)
    return augment.add_noise(samples, augment.babble(others, len(samples), rng), rng.uniform(0.0, 10.0))


def bad_microphone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    samples = augment.equalize(samples, rng, SAMPLE_RATE, strength=12.0)
    return noisy(augment.clip(samples, rng.uniform(0.02, 0.1)), rng, "white", 15.0, 30.0)


car = partial(noisy, colour="brown", low=0.0, high=20.0)
large_room = partial(in_room, low=0.8, high=1.5)

DOMAINS = {
    "home": Domain(("light", "device", "climate", "media", "volume"), ("en", "en-us"), (130, 200), quiet_room),
    "phone": Domain(("call", "message", "calendar", "alarm", "timer"), ("en-us", "en-gb-x-rp"), (150, 220), telephone),
    "car": Domain(("weather", "travel"), ("en-gb-x-gbclan", "en-us"), (130, 190), car),
    "shop": Domain(("shopping", "sum"), ("en-gb-x-gbcwmd", "en"), (120, 180), hall),
}
_home = DOMAINS["home"]._replace(rules=tuple(rule for domain in DOMAINS.values() for rule in domain.rules))
UNSEEN = {
    "ood_accent": _home._replace(accents=UNSEEN_ACCENTS),
    "ood_fast": _home._replace(speeds=(250, 320)),
    "ood_babble": _home._replace(channel=babble),
    "ood_room": _home._replace(channel=large_room),
    "ood_channel": _home._replace(channel=bad_microphone),
    "ood_vocabulary": _home._replace(rules=UNSEEN_RULES),
}


# --- which utterances


def choose(sizes: dict[str, int], recordings: Sequence[Recording], seed: int) -> dict[str, list[Job]]:
    """The utterances of each set; no sentence of dev and the tests occurs twice.

    Args:
        sizes: of train, dev, and each test that eSpeak NG speaks.
        recordings: all usable recordings of digits.
        seed: of the choices, and of the sound.

    Raises:
        SigmelError: there are too few sentences, or no recordings for a set.
    """
    jobs: dict[str, list[Job]] = {}
    used: set[str] = set()

    def spoken(name: str, domain: str, count: int, seed: tuple[int, ...]) -> list[Job]:
        texts = commands.sentences(name, count, np.random.default_rng(seed), used, (DOMAINS | UNSEEN)[domain].rules)
        return [
            Job(f"{name}-{domain}-{number:05d}", name, domain, text, (), (*seed, number))
            for number, text in enumerate(texts)
        ]

    for index, (name, size) in enumerate(sizes.items()):
        if name in UNSEEN:
            jobs[name] = spoken(name, name, size, (seed, index))
            continue
        heard = [r for r in recordings if r.take in RECORDINGS[name] and r.speaker not in HELD_OUT]
        if not heard:
            raise SigmelError(f"--fsdd-dir: no recordings for {name}, which takes indices {RECORDINGS[name]}")
        jobs[name] = digits(name, random_strings(heard, size // 5, (seed, index, 0)), (seed, index, 0))
        for number, domain in enumerate(DOMAINS, start=1):
            share = size // 5 + (number <= size % 5)
            jobs[name] += spoken(name, domain, share, (seed, index, number))
    for index, speaker in enumerate(HELD_OUT, start=len(sizes)):
        own = fsdd.by_speaker(recordings).get(speaker)
        if not own:
            raise SigmelError(f"--fsdd-dir: no recordings of {speaker}")
        jobs[f"real_{speaker}"] = digits(f"real_{speaker}", fsdd.even_strings(own, 2, (seed, index)), (seed, index))
    return jobs


def random_strings(recordings: Sequence[Recording], count: int, seed: tuple[int, ...]) -> Iterator[list[Recording]]:
    """Strings of random digits, each by a random speaker."""
    rng, choices = np.random.default_rng(seed), fsdd.by_speaker(recordings)
    for _ in range(count):
        own = choices[sorted(choices)[rng.integers(len(choices))]]
        yield [own[i] for i in rng.integers(len(own), size=rng.integers(1, fsdd.LONGEST + 1))]


def digits(name: str, strings: Iterable[Sequence[Recording]], seed: tuple[int, ...]) -> list[Job]:
    """The utterances of a set that are strings of digits."""
    jobs = []
    for number, string in enumerate(strings):
        text = fsdd.words(recording.digit for recording in string)
        jobs.append(Job(f"{name}-digits-{number:05d}", name, "digits", text, string, (*seed, number)))
    return jobs


# --- the sound


def make(recordings: dict[str, np.ndarray], job: Job) -> Sound:
    """Make one utterance of recordings, given by name, or of speech by eSpeak NG."""
    rng = np.random.default_rng(job.seed)
    extra: dict[str, object] = {"domain": job.domain}
    if job.recordings:
        train = job.set == "train"
        samples = fsdd.join([recordings[recording.name] for recording in job.recordings], rng, loose=train)
        if train:
            samples = augment.vary_voice(samples, rng, SAMPLE_RATE, widest=1.2)
            samples = augment.vary_room(samples, rng, SAMPLE_RATE)
        return Sound(samples, job.text, job.recordings[0].speaker, extra)
    domain = (DOMAINS | UNSEEN)[job.domain]
    speakers = commands.speakers(job.set)
    voice, said = commands.speak(job.text, domain.accents, speakers, rng, SAMPLE_RATE, domain.speeds)
    before, after = (int(edge) for edge in rng.uniform(0.05, 0.3, size=2) * SAMPLE_RATE)
    samples = domain.channel(np.pad(said.samples, (before, after)), rng)
    samples = augment.set_level(samples, 10.0 ** rng.uniform(-1.0, -0.05))
    if job.set != "train":  # for a look at what experts do by phone; nothing changes the time from here on
        shift = before / SAMPLE_RATE
        extra["phones"] = [(round(s + shift, 4), round(e + shift, 4), label) for s, e, label in said.phones]
    return Sound(samples, job.text, voice, extra)


# --- the stage


def plan(options: argparse.Namespace) -> Plan:
    """The utterances of each set, and the recordings of digits that they are made of."""
    usable, samples, skipped = fsdd.load(fsdd.find_recordings(source(options, fsdd.ARCHIVE)))
    sizes = {"train": options.train, "dev": options.dev, "test": options.test}
    return Plan(choose(sizes | dict.fromkeys(UNSEEN, options.test), usable, options.seed), samples, skipped)


def main(argv: Sequence[str] | None = None) -> None:
    parser = corpus_parser(__file__, fsdd.ARCHIVE)
    size = at_least(len(DOMAINS) + 1)  # one of each domain, and digits
    parser.add_argument("--train", type=size, default=20000, help="training utterances (default: 20000)")
    parser.add_argument("--dev", type=size, default=200, help="development utterances (default: 200)")
    parser.add_argument("--test", type=size, default=400, help="utterances of each test (default: 400)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the random numbers (default: 0)")
    build_corpus(parser.parse_args(argv), plan, make, SAMPLE_RATE)


if __name__ == "__main__":
    sys.exit(exit_status(main))
