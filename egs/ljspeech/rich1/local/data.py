#!/usr/bin/env python3
"""Data of the ljspeech recipe: one reader of seven books, 24 hours.

https://keithito.com/LJ-Speech-Dataset, public domain.

The last ``--test`` clips that are there are the test, those before them ``--dev``, all others train: with 250 each, as
is usual, they are of other books than most of the training. Texts are the normalised ones, in lower case, of letters
and apostrophes only. Clips that are listed but not there are left out, and counted.

The output folder holds ``wav/`` (16 kHz), a manifest for each set, ``skipped.jsonl`` (clips that cannot be used and
why) and ``config.json``.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sigmel.errors import SigmelError, exit_status
from sigmel.files.audio import AudioError, check_audio, read_audio, write_wav
from sigmel.files.manifest import Skipped, Utterance, write_manifest, write_skipped
from sigmel.files.parallel import parallel_map
from sigmel.recipes.download import fetch_archive
from sigmel.recipes.stage import add_download, at_least, data_folder, stage_parser

ARCHIVE_URL = "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2"
ARCHIVE_SHA256 = "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5"  # as torchaudio has it on record

SAMPLE_RATE = 16000
SPEAKER = "lj"


class Clip(NamedTuple):
    """A line of metadata.csv whose recording is there."""

    id: str
    text: str
    path: Path


def download(folder: Path) -> Path:
    """Fetch and unpack the dataset below ``folder`` unless it is there; return where it is."""

    def place(path: PurePosixPath) -> PurePosixPath | None:
        return PurePosixPath(*path.parts[1:]) if path.suffix in (".wav", ".csv") else None

    return fetch_archive(ARCHIVE_URL, ARCHIVE_SHA256, folder / "LJSpeech-1.1", place, "--ljspeech-dir")


def find_clips(folder: Path) -> list[Clip]:
    """The clips that are there, in the order of the books.

    Raises:
        SigmelError: no list, a line that is none of it, or no recordings.
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
        SigmelError: none is left for training.
    """
    first = len(clips) - dev - test
    if first < 1:
        raise SigmelError(f"{len(clips)} clips are too few for --dev {dev} and --test {test}")
    return {"train": clips[:first], "dev": clips[first : first + dev], "test": clips[first + dev :]}


def make(folder: Path, clip: Clip) -> Utterance | Skipped:
    """Write a clip at the recipe's rate, and return its row; or say why it cannot be used."""
    file = f"wav/{clip.id}.wav"
    try:
        samples, _ = read_audio(clip.path, SAMPLE_RATE)
        fault = check_audio(samples, SAMPLE_RATE) or (None if clip.text else "no text")
    except AudioError as error:
        samples, fault = [], str(error)
    utterance = Utterance(clip.id, file, round(len(samples) / SAMPLE_RATE, 4), clip.text, SPEAKER)
    if fault:
        return Skipped(utterance, fault)
    write_wav(folder / file, samples, SAMPLE_RATE)
    return utterance


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = stage_parser("ljspeech")
    add_download(parser, "--ljspeech-dir")
    parser.add_argument("--dev", type=at_least(1), default=250, help="clips of the development set; default: 250")
    parser.add_argument("--test", type=at_least(1), default=250, help="clips of the test; default: 250")
    return parser.parse_args(argv)


def build(options: argparse.Namespace) -> None:
    with data_folder(options.output, {"dev": options.dev, "test": options.test}) as folder:
        if folder is None:
            return
        clips = find_clips(options.ljspeech_dir or download(options.download_dir))
        (folder / "wav").mkdir()
        skipped = []
        for name, members in split(clips, options.dev, options.test).items():
            made = list(parallel_map(make, folder, members, options.workers, name))
            skipped += [one for one in made if isinstance(one, Skipped)]
            usable = [one for one in made if isinstance(one, Utterance)]
            if not usable:
                raise SigmelError(f"none of the clips of {name} can be used; the first: {skipped[-1].reason}")
            write_manifest(folder / f"{name}.jsonl", usable)
            print(f"{name}.jsonl: {len(usable)} utterances, {sum(one.duration for one in usable) / 3600:.2f} hours")
        write_skipped(folder / "skipped.jsonl", skipped)
        print(f"skipped.jsonl: {len(skipped)}")


if __name__ == "__main__":
    arguments = parse(None)
    sys.exit(exit_status(lambda: build(arguments)))
