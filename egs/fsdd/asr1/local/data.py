#!/usr/bin/env python3
"""Data of the fsdd recipe: strings of one to seven digits, made of recordings of single digits.

The Free Spoken Digit Dataset (https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0) holds
recordings `{digit}_{speaker}_{index}.wav`, 8 kHz, 50 of each digit by each speaker. A string is made of recordings
of one speaker: each trimmed lightly, laid out with natural gaps over noise as quiet as that of the recordings. Its
transcript is in words, "three one four".

Which recordings go where:

================== ======================= ================== =====================================
`--test-speaker`   train                   dev                test
================== ======================= ================== =====================================
none               indices 8 and above     indices 5 to 7     test_official: indices 0 to 4
NAME               all other speakers',    all other          test_loso_NAME: all of NAME's
                   but indices 5 to 7      speakers', 5 to 7
================== ======================= ================== =====================================

So no recording of a test is ever heard in training. In dev and test each recording is used equally often, strings have
random lengths, and the sound is not changed. Training strings draw digits at random and are varied at random: vocal
tract, pitch, tempo, room, microphone and noise. A share of them (`--tts-share`) is spoken by eSpeak NG instead, by a
hundred speakers with English accents, and foreign ones that read English digits in their own spelling.

`--speaker NAME --as-recorded` is for learning to speak: strings of NAME alone, whose sound is not changed.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmel.errors import SigmelError, exit_status
from sigmel.recipes import augment
from sigmel.recipes.arguments import at_least
from sigmel.recipes.corpora import fsdd
from sigmel.recipes.corpora.espeak import EspeakVoice, english_voices, variants
from sigmel.recipes.corpora.fsdd import SAMPLE_RATE, WORDS, Recording
from sigmel.recipes.corpus_builder import Plan, Sound, build_corpus, corpus_parser, source

TEST_INDICES = range(0, 5)
DEV_INDICES = range(5, 8)

# English digits, spelled as they sound to speakers of each language.
ACCENTS = {
    "cs": "zírou uan tú srí for fajv siks sevn ejt najn",
    "de": "siero wan tuh sri for fajf ßiks ßewen ejt nein",
    "el": "ζίροου ουάν του θρι φορ φάιβ σιξ σέβεν έιτ νάιν",
    "es": "siro uan tu sri for faiv siks seven eit nain",
    "fi": "siro uan tuu srii foor faiv siks seven eit nain",
    "fr": "zirô ouanne tou srî fôr faïve sixe sèvène éïte naïne",
    "hi": "ज़ीरो वन टू थ्री फ़ोर फ़ाइव सिक्स सेवन एट नाइन",
    "hu": "zíró van tú szrí for fájv sziksz szeven éjt nájn",
    "it": "ziro uan tu tri for faiv siks seven eit nain",
    "nl": "ziero wan toe srie for faiv sieks seven eet nain",
    "pl": "ziroł łan tu sri for fajw siks sewen ejt najn",
    "ro": "zírou uan tu sri for faiv sics séven eit nain",
    "ru": "зироу уан ту сри фор файв сикс севен эйт найн",
    "tr": "ziro van tu tri for fayv siks seven eyt nayn",
}


class Job(NamedTuple):
    """One string to be made."""

    id: str
    digits: tuple[int, ...]
    speaker: str  # empty: eSpeak NG
    recordings: tuple[str, ...]  # names; empty: eSpeak NG
    seed: tuple[int, ...]
    vary: bool


# --- the strings


def split(recordings: Sequence[Recording], test_speaker: str) -> dict[str, list[Recording]]:
    """The recordings of each set; see the table at the top of this file."""
    official = test_speaker == "none"
    if not official:
        check_speaker("--test-speaker", test_speaker, recordings)
    test = "test_official" if official else f"test_loso_{test_speaker}"
    sets: dict[str, list[Recording]] = {"train": [], "dev": [], test: []}
    for recording in recordings:
        in_test = recording.take in TEST_INDICES if official else recording.speaker == test_speaker
        sets[test if in_test else "dev" if recording.take in DEV_INDICES else "train"].append(recording)
    for name, members in sets.items():
        if not members:
            raise SigmelError(f"no recordings are left for {name}; found {len(recordings)} of {speakers(recordings)}")
    return sets


def check_speaker(option: str, name: str, recordings: Sequence[Recording]) -> None:
    """Raise a SigmelError if there is no such speaker."""
    if all(recording.speaker != name for recording in recordings):
        raise SigmelError(f"{option}: no {name}; there are {speakers(recordings)}")


def speakers(recordings: Sequence[Recording]) -> str:
    """The names of all speakers, for an error message."""
    return ", ".join(sorted({recording.speaker for recording in recordings}))


def plan_even(name: str, recordings: Sequence[Recording], passes: int, seed: tuple[int, ...]) -> list[Job]:
    """Strings that use every recording `passes` times, without any change of the sound."""
    strings = fsdd.even_strings(recordings, passes, np.random.default_rng(seed))
    return [
        _job(f"{name}-{part[0].speaker}-{number:05d}", part, (*seed, number), vary=False)
        for number, part in enumerate(strings)
    ]


def plan_training(
    recordings: Sequence[Recording], count: int, tts_share: float, vary: bool, seed: tuple[int, ...]
) -> list[Job]:
    """`count` strings of random digits: a share for eSpeak NG, and the others each of a random speaker."""
    by_speaker: dict[str, dict[int, list[Recording]]] = defaultdict(lambda: defaultdict(list))
    for recording in recordings:
        by_speaker[recording.speaker][recording.digit].append(recording)
    names = sorted(by_speaker)
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(count):
        length = int(rng.integers(1, fsdd.LONGEST + 1))
        job_seed = (*seed, number)
        if rng.random() < tts_share:
            digits = tuple(int(digit) for digit in rng.integers(10, size=length))
            jobs.append(Job(f"train-espeak-{number:05d}", digits, "", (), job_seed, vary))
        else:
            own = by_speaker[names[rng.integers(len(names))]]
            choices = [own[digit] for digit in rng.choice(sorted(own), size=length)]
            part = [choice[rng.integers(len(choice))] for choice in choices]
            jobs.append(_job(f"train-{part[0].speaker}-{number:05d}", part, job_seed, vary))
    return jobs


def _job(name: str, part: Sequence[Recording], seed: tuple[int, ...], vary: bool) -> Job:
    digits = tuple(recording.digit for recording in part)
    return Job(name, digits, part[0].speaker, tuple(recording.name for recording in part), seed, vary)


# --- the sound


def make(recordings: dict[str, np.ndarray], job: Job) -> Sound:
    """Make one string of recordings, given by name, or have eSpeak NG say it."""
    rng = np.random.default_rng(job.seed)
    if job.recordings:
        speaker, widest = job.speaker, 1.25
        samples = fsdd.join([recordings[name] for name in job.recordings], rng, loose=job.vary)
    else:
        (speaker, samples), widest = speak(job.digits, rng), 1.12
    if job.vary:
        samples = augment.vary_voice(samples, rng, SAMPLE_RATE, widest)
        samples = augment.vary_room(samples, rng, SAMPLE_RATE)
    text = " ".join(WORDS[digit] for digit in job.digits)
    return Sound(samples, text, speaker, {"recordings": list(job.recordings)})


def speak(digits: Sequence[int], rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Have a random voice of eSpeak NG say the digits; return its name and the samples at 8 kHz."""
    foreign = rng.random() < 0.35
    accents = sorted(ACCENTS) if foreign else [*english_voices(), "en-us", "en-us"]
    accent = accents[rng.integers(len(accents))]
    words = ACCENTS[accent].split() if foreign else WORDS
    voice = f"{accent}+{variants()[rng.integers(len(variants()))]}"
    speed, pitch, pitch_range = int(rng.integers(90, 201)), int(rng.integers(0, 91)), int(rng.integers(10, 91))
    texts = [words[digit] for digit in digits]
    if rng.random() < 0.3:  # in one breath
        texts = [" ".join(texts)]
    with EspeakVoice(voice, speed, pitch, pitch_range, sample_rate=SAMPLE_RATE) as speaker:
        parts = [speaker.say(text) for text in texts]
    return f"espeak-{voice}", fsdd.join([fsdd.trim(part) for part in parts], rng, loose=True)


# --- the stage


def plan(options: argparse.Namespace) -> Plan:
    """The strings of each set, and the recordings that they are made of."""
    recordings = fsdd.find_recordings(source(options, fsdd.ARCHIVE))
    if options.speaker != "all":
        check_speaker("--speaker", options.speaker, recordings)
        recordings = [recording for recording in recordings if recording.speaker == options.speaker]
    usable, samples, skipped = fsdd.load(recordings)
    jobs = {}
    for number, (name, members) in enumerate(split(usable, options.test_speaker).items()):
        seed = (options.seed, number)
        if name == "train":
            jobs[name] = plan_training(members, options.train, options.tts_share, not options.as_recorded, seed)
        else:
            passes = {"dev": 3, "test_official": 8}.get(name, 2)
            jobs[name] = plan_even(name, members, passes, seed)
    return Plan(jobs, samples, skipped)


def main(argv: Sequence[str] | None = None) -> None:
    parser = corpus_parser(__file__, fsdd.ARCHIVE)
    parser.add_argument(
        "--test-speaker", default="none", metavar="NAME", help="leave NAME out (default: the official test)"
    )
    parser.add_argument("--train", type=at_least(1), default=16000, help="training strings (default: 16000)")
    parser.add_argument(
        "--tts-share", type=float, help="share of training strings by eSpeak NG (default: 0.5, or 0 with --speaker)"
    )
    parser.add_argument("--speaker", default="all", metavar="NAME", help="strings of NAME alone (default: all)")
    parser.add_argument("--as-recorded", action="store_true", help="do nothing to the sound of the training strings")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the random numbers (default: 0)")
    options = parser.parse_args(argv)
    if options.tts_share is None:
        options.tts_share = 0.5 if options.speaker == "all" else 0.0
    if not 0.0 <= options.tts_share <= 1.0:
        parser.error("--tts-share must lie between 0 and 1")
    build_corpus(options, plan, make, SAMPLE_RATE)


if __name__ == "__main__":
    sys.exit(exit_status(main))
