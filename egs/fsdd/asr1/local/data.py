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
tract, pitch, tempo, room, microphone and noise. Half of the strings are spoken by eSpeak NG instead, by a hundred
speakers with English accents, and foreign ones that read English digits in their own spelling.

`--speaker NAME` is for learning to speak: strings of NAME alone, whose sound is not changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sigmel.errors import SigmelError, exit_status
from sigmel.recipes import at_least, augment
from sigmel.recipes.corpora import fsdd
from sigmel.recipes.corpora.espeak import EspeakVoice, english_voices, variants
from sigmel.recipes.corpora.fsdd import SAMPLE_RATE, WORDS, Recording
from sigmel.recipes.corpus_builder import Plan, Sound, build_corpus, corpus_parser, source

TEST_INDICES = range(0, 5)
DEV_INDICES = range(5, 8)
TTS_SHARE = 0.5  # of training strings

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
    recordings: Sequence[Recording]  # empty: eSpeak NG says the digits
    digits: Sequence[int]
    seed: tuple[int, ...]
    vary: bool


# --- the strings


def split(recordings: Sequence[Recording], test_speaker: str) -> dict[str, list[Recording]]:
    """The recordings of each set; see the table at the top of this file."""
    official = test_speaker == "none"
    if not official:
        of_speaker(recordings, test_speaker, "--test-speaker")
    test = "test_official" if official else f"test_loso_{test_speaker}"
    sets: dict[str, list[Recording]] = {"train": [], "dev": [], test: []}
    for recording in recordings:
        in_test = recording.take in TEST_INDICES if official else recording.speaker == test_speaker
        sets[test if in_test else "dev" if recording.take in DEV_INDICES else "train"].append(recording)
    for name, members in sets.items():
        if not members:
            found = f"{len(recordings)} of {', '.join(fsdd.by_speaker(recordings))}"
            raise SigmelError(f"no recordings are left for {name}; found {found}")
    return sets


def of_speaker(recordings: Sequence[Recording], name: str, option: str) -> list[Recording]:
    """The recordings of a speaker.

    Raises:
        SigmelError: there is no such speaker; the message names the option.
    """
    found = fsdd.by_speaker(recordings)
    if name not in found:
        raise SigmelError(f"{option}: no {name}; there are {', '.join(found)}")
    return found[name]


def plan_even(name: str, recordings: Sequence[Recording], passes: int, seed: tuple[int, ...]) -> list[Job]:
    """Strings that use every recording `passes` times, without any change of the sound."""
    jobs = []
    for number, string in enumerate(fsdd.even_strings(recordings, passes, seed)):
        digits = [recording.digit for recording in string]
        jobs.append(Job(f"{name}-{string[0].speaker}-{number:05d}", string, digits, (*seed, number), vary=False))
    return jobs


def plan_training(
    recordings: Sequence[Recording], count: int, tts_share: float, vary: bool, seed: tuple[int, ...]
) -> list[Job]:
    """`count` strings of random digits: a share for eSpeak NG, and the others each of a random speaker."""
    speakers = sorted(fsdd.by_speaker(recordings).items())
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(count):
        length = int(rng.integers(1, fsdd.LONGEST + 1))
        if rng.random() < tts_share:
            speaker, string, digits = "espeak", [], rng.integers(10, size=length).tolist()
        else:
            speaker, own = speakers[rng.integers(len(speakers))]
            digits = rng.choice(sorted({recording.digit for recording in own}), size=length).tolist()
            choices = [[recording for recording in own if recording.digit == digit] for digit in digits]
            string = [choice[rng.integers(len(choice))] for choice in choices]
        jobs.append(Job(f"train-{speaker}-{number:05d}", string, digits, (*seed, number), vary))
    return jobs


# --- the sound


def make(samples: dict[str, np.ndarray], job: Job) -> Sound:
    """Make one string of recordings, whose samples are given by name, or have eSpeak NG say it."""
    rng = np.random.default_rng(job.seed)
    if job.recordings:
        speaker, widest = job.recordings[0].speaker, 1.25
        sound = fsdd.join([samples[recording.name] for recording in job.recordings], rng, loose=job.vary)
    else:
        (speaker, sound), widest = speak(job.digits, rng), 1.12
    if job.vary:
        sound = augment.vary_voice(sound, rng, SAMPLE_RATE, widest)
        sound = augment.vary_room(sound, rng, SAMPLE_RATE)
    extra = {"recordings": [recording.name for recording in job.recordings]}
    return Sound(sound, fsdd.words(job.digits), speaker, extra)


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
    anybody = options.speaker == "all"
    if not anybody:
        recordings = of_speaker(recordings, options.speaker, "--speaker")
    usable, samples, skipped = fsdd.load(recordings)
    jobs = {}
    for number, (name, members) in enumerate(split(usable, options.test_speaker).items()):
        seed = (options.seed, number)
        if name == "train":
            jobs[name] = plan_training(members, options.train, TTS_SHARE if anybody else 0.0, anybody, seed)
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
        "--speaker", default="all", metavar="NAME", help="strings of NAME alone, as recorded (default: of all, varied)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the random numbers (default: 0)")
    parser.add_argument("--list-speakers", action="store_true", help="print the names of all speakers, and end")
    options = parser.parse_args(argv)
    if vars(options).pop("list_speakers"):
        print(*fsdd.by_speaker(fsdd.find_recordings(source(options, fsdd.ARCHIVE))), sep="\n")
        return
    build_corpus(options, plan, make, SAMPLE_RATE)


if __name__ == "__main__":
    sys.exit(exit_status(main))
