#!/usr/bin/env python3
"""Data of the an4 recipe: the CMU Census (AN4) database, people who spell and say personal data, 16 kHz.

Four lists say what the database holds: line by line, `etc/an4_<set>.fileids` names a recording below `wav`, and
`etc/an4_<set>.transcription` holds its transcript. Every recording in the lists must exist and be readable.

===== ======================================== =====================================================
set   utterances                               sound
===== ======================================== =====================================================
train an4_train without the speakers of dev    each at the speeds of `--speeds`
dev   an4_train, every tenth speaker by name   as recorded
test  an4_test                                 as recorded
===== ======================================== =====================================================

No speaker is in two sets. Transcripts are words in lower case, as in the lists: "p i t t s b u r g h",
"one five two one three".
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sigmel.errors import SigmelError, exit_status
from sigmel.files.audio import AudioError, read_audio
from sigmel.recipes.augment import change_speed
from sigmel.recipes.corpus_builder import Plan, Sound, build_corpus, corpus_parser, source
from sigmel.recipes.download import Archive

# NeMo's copy of CMU's archive, which has an address that is encrypted, and a published checksum.
ARCHIVE = Archive(
    url="https://dldata-public.s3.us-east-2.amazonaws.com/an4_sphere.tar.gz",
    sha256="a0525579493735d32b60fb6fa5975dd0eaacde087b0a4eeb7f13b7ef33077b12",
    folder="an4",
    wanted=("*.fileids", "*.transcription", "*.sph"),
    option="--an4-dir",
)
SAMPLE_RATE = 16000
COMPLETE = {"train": 948, "test": 130}  # utterances of the whole database
DEV_EVERY = 10  # speakers


class Recording(NamedTuple):
    """One recorded utterance, and the speed at which it is to be played."""

    id: str
    speaker: str
    text: str
    path: Path
    speed: float = 1.0

    def at(self, speed: float) -> Recording:
        """The recording at another speed, under another id."""
        return self if speed == 1.0 else self._replace(id=f"{self.id}-sp{speed:g}", speed=speed)


def read_lists(folder: Path, name: str) -> list[Recording]:
    """The utterances of `name`, "train" or "test", in the order of the lists.

    Raises:
        SigmelError: a list or a recording is missing, a line is malformed, or the two lists disagree.
    """
    files, texts = (folder / "etc" / f"an4_{name}.{kind}" for kind in ("fileids", "transcription"))
    paths, lines = _lines(files), _lines(texts)
    if len(paths) != len(lines):
        raise SigmelError(f"{files} has {len(paths)} lines and {texts} {len(lines)}; they should name the same files")
    recordings = []
    for number, (file, line) in enumerate(zip(paths, lines, strict=True), start=1):
        recording = parse_line(line, f"{texts}:{number}", folder / "wav" / f"{file.strip()}.sph")
        if recording.path.stem != recording.id:
            raise SigmelError(f"{files}:{number}: {file} is not the file of {recording.id}, which {texts} has there")
        if not recording.path.is_file():
            raise SigmelError(f"{files}:{number}: {recording.path} is missing")
        recordings.append(recording)
    return recordings


def parse_line(line: str, where: str, path: Path) -> Recording:
    """Read a line of a transcription: `<s> ENTER FIFTY ONE </s> (an315-fkai-b)`, or without the marks.

    Raises:
        SigmelError: the line has another form; the message begins with `where`.
    """
    *words, last = line.split() or [""]
    name = re.fullmatch(r"\((\w+-(\w+)-\w+)\)", last)
    if words[:1] == ["<s>"] and words[-1:] == ["</s>"]:
        words = words[1:-1]
    if name is None or not words or not all(re.fullmatch(r"[A-Za-z']+", word) for word in words):
        raise SigmelError(f"{where}: expected '<s> WORDS </s> (<utterance>-<speaker>-b)', got {line!r}")
    return Recording(name[1], name[2], " ".join(words).lower(), path)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise SigmelError(f"{path}: no such file; --an4-dir takes the folder that holds AN4's etc and wav")
    # Bytes that are not UTF-8 are replaced here; the line is then refused by name.
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def split(train: Sequence[Recording], test: Sequence[Recording]) -> dict[str, list[Recording]]:
    """The recordings of each set; see the table at the top of this file.

    Raises:
        SigmelError: there are too few speakers, or one speaks in train and test.
    """
    speakers = sorted({recording.speaker for recording in train})
    if len(speakers) < 2:
        raise SigmelError(f"an4_train has {len(speakers)} speakers; it takes two, one of them for the dev set")
    if both := sorted({recording.speaker for recording in test} & set(speakers)):
        raise SigmelError(f"{', '.join(both)}: in an4_train and an4_test; AN4 is tested on speakers never heard")
    dev = set(speakers[::DEV_EVERY])
    return {
        "train": [recording for recording in train if recording.speaker not in dev],
        "dev": [recording for recording in train if recording.speaker in dev],
        "test": list(test),
    }


def plan(options: argparse.Namespace) -> Plan:
    """The recordings of each set at their speeds; says if the copy is only a part of AN4."""
    folder = source(options, ARCHIVE)
    folder = folder / "an4" if (folder / "an4").is_dir() else folder
    lists = {name: read_lists(folder, name) for name in COMPLETE}
    for name, recordings in lists.items():
        if len(recordings) != COMPLETE[name]:
            print(f"note: {folder} is a part of AN4: {len(recordings)} of {COMPLETE[name]} {name} utterances")
    jobs = {}
    for name, recordings in split(**lists).items():
        speeds = options.speeds if name == "train" else [1.0]
        jobs[name] = [recording.at(speed) for recording in recordings for speed in speeds]
    return Plan(jobs)


def make(_: None, recording: Recording) -> Sound:
    """Read a recording and change its speed."""
    samples, rate = read_audio(recording.path)
    if rate != SAMPLE_RATE:
        raise AudioError(f"{recording.path}: {rate} Hz; AN4 has {SAMPLE_RATE}")
    return Sound(change_speed(samples, recording.speed), recording.text, recording.speaker)


def main(argv: Sequence[str] | None = None) -> None:
    parser = corpus_parser(__file__, ARCHIVE)
    parser.add_argument("--speeds", type=float, nargs="+", default=[0.9, 1.0, 1.1], help="of the training utterances")
    options = parser.parse_args(argv)
    if not all(0.5 <= speed <= 2.0 for speed in options.speeds):
        parser.error("--speeds must lie between 0.5 and 2")
    build_corpus(options, plan, make, SAMPLE_RATE)


if __name__ == "__main__":
    sys.exit(exit_status(main))
