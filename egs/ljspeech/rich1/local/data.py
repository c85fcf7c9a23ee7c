#!/usr/bin/env python3
"""Data of the ljspeech recipe: one reader of seven books, 24 hours.

https://keithito.com/LJ-Speech-Dataset, public domain.

The last `--test` clips are the test set, the `--dev` clips before them the development set, and all others the
training set: with 250 each, as is usual, the test comes from other books than most of the training set. Texts are the
normalised texts, in lower case, of letters and apostrophes only. Clips that are listed but missing are left out, and
counted. Sampling rate 16 kHz.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigmel.errors import SigmelError, exit_status
from sigmel.files.audio import AudioError, check_audio, read_audio
from sigmel.recipes import at_least
from sigmel.recipes.corpus_builder import Plan, Sound, build_corpus, corpus_parser, source
from sigmel.recipes.download import Archive

ARCHIVE = Archive(
    url="https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
    sha256="be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",  # as torchaudio has it on record
    folder="LJSpeech-1.1",
    wanted=("metadata.csv", "wavs/*.wav"),
    option="--ljspeech-dir",
)
SAMPLE_RATE = 16000
SPEAKER = "lj"


class Clip(NamedTuple):
    """A line of metadata.csv whose recording exists."""

    id: str
    text: str
    path: Path


def find_clips(folder: Path) -> list[Clip]:
    """The clips whose recordings exist, in the order of the books.

    Raises:
        SigmelError: the list is missing or malformed, or there are no recordings.
    """
    listed = folder / "metadata.csv"
    if not listed.is_file():
        raise SigmelError(f"{listed}: no such file; --ljspeech-dir takes the folder of metadata.csv and wavs/")
    clips, missing = [], 0
    for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("|")
        if len(fields) != 3 or not re.fullmatch(r"[\w-]+", fields[0]):
            raise SigmelError(f"{listed}:{number}: expected ID|TEXT|NORMALISED TEXT, got {line[:60]!r}")
        path = folder / "wavs" / f"{fields[0]}.wav"
        if path.is_file():
            clips.append(Clip(fields[0], plain(fields[2]), path))
        else:
            missing += 1
    if not clips:
        raise SigmelError(f"{folder / 'wavs'}: none of the recordings that {listed} names")
    if missing:
        print(f"{folder}: {missing} of {missing + len(clips)} clips are not there and are left out")
    return clips


def plain(text: str) -> str:
    """Lower case, letters without accents, apostrophes, and single spaces."""
    letters = unicodedata.normalize("NFKD", text.lower().replace("’", "'"))
    kept = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.sub(r"[^a-z']", " ", kept).split())


def split(clips: Sequence[Clip], dev: int, test: int) -> dict[str, Sequence[Clip]]:
    """The clips of each set.

    Raises:
        SigmelError: no clip is left for training.
    """
    first = len(clips) - dev - test
    if first < 1:
        raise SigmelError(f"{len(clips)} clips are too few for --dev {dev} and --test {test}")
    return {"train": clips[:first], "dev": clips[first : first + dev], "test": clips[first + dev :]}


def plan(options: argparse.Namespace) -> Plan:
    """The clips of each set."""
    return Plan(split(find_clips(source(options, ARCHIVE)), options.dev, options.test))


def make(_: None, clip: Clip) -> Sound:
    """Read a clip at the recipe's sample rate, and say if it cannot be used."""
    try:
        samples, _ = read_audio(clip.path, SAMPLE_RATE)
    except AudioError as error:
        return Sound(np.zeros(0), clip.text, SPEAKER, fault=str(error))
    return Sound(
        samples, clip.text, SPEAKER, fault=check_audio(samples, SAMPLE_RATE) or ("" if clip.text else "no text")
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = corpus_parser(__file__, ARCHIVE)
    parser.add_argument("--dev", type=at_least(1), default=250, help="clips of the development set (default: 250)")
    parser.add_argument("--test", type=at_least(1), default=250, help="clips of the test set (default: 250)")
    build_corpus(parser.parse_args(argv), plan, make, SAMPLE_RATE)


if __name__ == "__main__":
    sys.exit(exit_status(main))
