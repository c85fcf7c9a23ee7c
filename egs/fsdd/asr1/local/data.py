#!/usr/bin/env python3
"""Data of the fsdd recipe: strings of one to seven digits, made of recordings of single digits.

The Free Spoken Digit Dataset (https://github.com/Jakobovski/free-spoken-digit-dataset, CC BY-SA 4.0) holds
recordings ``{digit}_{speaker}_{index}.wav``, 8 kHz, 50 of each digit by each speaker. A string is made of recordings
of one speaker: each trimmed lightly, laid out with natural gaps over a floor of noise as quiet as the recordings'
own. Its transcript is in words, "three one four".

Which recordings go where:

================== ======================= ================== =====================================
``--test-speaker`` train                   dev (to look on)   test
================== ======================= ================== =====================================
none               indices 8 and above     indices 5 to 7     test_official: indices 0 to 4
NAME               all other speakers',    all other          test_loso_NAME: all of NAME's
                   but indices 5 to 7      speakers', 5 to 7
================== ======================= ================== =====================================

So no recording of a test is ever heard in training. In dev and test each recording is used equally often, strings
are as long as they happen to fall, and nothing is done to the sound. Training strings draw digits at random and are
varied at random: vocal tract, pitch, tempo, room, microphone and noise. A share of them (``--tts-share``) is spoken
by eSpeak NG instead, by a hundred speakers with eight accents of English and some foreign ones, which read English
digits in their own spelling.

The output folder holds ``wav/``, a manifest for each set, ``skipped.jsonl`` (recordings that cannot be used and why)
and ``config.json``. It depends on the options and the seed only, not on the number of processes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from sigmel.data import augment
from sigmel.data.audio import AudioError, check_audio, read_audio, resample, write_wav
from sigmel.data.download import fetch_archive
from sigmel.data.espeak import SAMPLE_RATE as ESPEAK_RATE
from sigmel.data.espeak import EspeakVoice, english_voices, variants
from sigmel.data.manifest import Skipped, Utterance
from sigmel.data.parallel import parallel_map
from sigmel.data.stage import data_folder, write_sets
from sigmel.errors import SigmelError, exit_status

# Version 1.0.9 is the one with five speakers; size and checksum are those which TensorFlow Datasets has on record.
ARCHIVE_URL = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz"
ARCHIVE_SHA256 = "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0"

SAMPLE_RATE = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONGEST = 7
TEST_INDICES = range(0, 5)
DEV_INDICES = range(5, 8)

# English digits as each language would spell what it hears.
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


class Recording(NamedTuple):
    """One recorded digit."""

    digit: int
    speaker: str
    index: int
    path: Path

    @property
    def name(self) -> str:
        return self.path.stem


class Job(NamedTuple):
    """One string to be made."""

    id: str
    digits: tuple[int, ...]
    speaker: str  # empty: eSpeak NG
    recordings: tuple[str, ...]  # names; empty: eSpeak NG
    seed: tuple[int, ...]
    vary: bool


class Context(NamedTuple):
    """What all strings are made from."""

    folder: Path
    samples: dict[str, np.ndarray]  # by name of the recording, trimmed


# --- the recordings


def find_recordings(folder: Path) -> list[Recording]:
    """All recordings in ``folder`` or its ``recordings`` folder, sorted by speaker, digit and index."""
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
    return sorted(found, key=lambda recording: (recording.speaker, recording.digit, recording.index))


def download(folder: Path) -> Path:
    """Fetch and unpack the dataset below ``folder`` unless it is there; return where its recordings are."""

    def place(path: PurePosixPath) -> PurePosixPath | None:
        wanted = path.parent.name == "recordings" and path.suffix == ".wav"
        return PurePosixPath("recordings", path.name) if wanted else None

    return fetch_archive(ARCHIVE_URL, ARCHIVE_SHA256, folder / "fsdd-1.0.9", place, "--fsdd-dir")


def load(recordings: Iterable[Recording]) -> tuple[list[Recording], dict[str, np.ndarray], list[Skipped]]:
    """Read and trim the recordings; return those that can be used, their samples by name, and the others."""
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
            skipped.append(Skipped(utterance, fault))
    return usable, samples, skipped


def trim(samples: np.ndarray, sample_rate: int = SAMPLE_RATE, depth: float = 40.0, margin: float = 0.03) -> np.ndarray:
    """Cut silence from both ends: what is ``depth`` dB below the loudest 10 ms, but for ``margin`` seconds."""
    hop = sample_rate // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    power = np.square(frames).mean(axis=1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (-depth / 10))
    if not len(loud):
        return samples
    keep = int(margin * sample_rate)
    return samples[max(loud[0] * hop - keep, 0) : (loud[-1] + 1) * hop + keep]


# --- which strings


def split(recordings: Sequence[Recording], test_speaker: str | None) -> dict[str, list[Recording]]:
    """The recordings of each set; see the table at the top of this file."""
    speakers = sorted({recording.speaker for recording in recordings})
    if test_speaker is not None and test_speaker not in speakers:
        raise SigmelError(f"--test-speaker: no {test_speaker}; there are {', '.join(speakers)}")
    test = "test_official" if test_speaker is None else f"test_loso_{test_speaker}"
    sets: dict[str, list[Recording]] = {"train": [], "dev": [], test: []}
    for recording in recordings:
        in_test = recording.index in TEST_INDICES if test_speaker is None else recording.speaker == test_speaker
        sets[test if in_test else "dev" if recording.index in DEV_INDICES else "train"].append(recording)
    for name, members in sets.items():
        if not members:
            raise SigmelError(f"no recordings are left for {name}; found {len(recordings)} of {', '.join(speakers)}")
    return sets


def plan_even(name: str, recordings: Sequence[Recording], passes: int, seed: tuple[int, ...]) -> list[Job]:
    """Strings that use every recording ``passes`` times: each speaker's are shuffled and cut at random."""
    jobs = []
    by_speaker = defaultdict(list)
    for recording in recordings:
        by_speaker[recording.speaker].append(recording)
    rng = np.random.default_rng(seed)
    for speaker, own in by_speaker.items():
        for _ in range(passes):
            rest = [own[i] for i in rng.permutation(len(own))]
            while rest:
                length = int(rng.integers(1, LONGEST + 1))
                part, rest = rest[:length], rest[length:]
                jobs.append(_job(f"{name}-{speaker}-{len(jobs):05d}", part, (*seed, len(jobs)), vary=False))
    return jobs


def plan_training(recordings: Sequence[Recording], count: int, tts_share: float, seed: tuple[int, ...]) -> list[Job]:
    """``count`` strings of random digits, a share of them for eSpeak NG, the others of a random speaker each."""
    by_speaker: dict[str, dict[int, list[Recording]]] = defaultdict(lambda: defaultdict(list))
    for recording in recordings:
        by_speaker[recording.speaker][recording.digit].append(recording)
    speakers = sorted(by_speaker)
    rng = np.random.default_rng(seed)
    jobs = []
    for number in range(count):
        length = int(rng.integers(1, LONGEST + 1))
        job_seed = (*seed, number)
        if rng.random() < tts_share:
            digits = tuple(int(digit) for digit in rng.integers(10, size=length))
            jobs.append(Job(f"train-espeak-{number:05d}", digits, "", (), job_seed, vary=True))
        else:
            own = by_speaker[speakers[rng.integers(len(speakers))]]
            choices = [own[digit] for digit in rng.choice(sorted(own), size=length)]
            part = [choice[rng.integers(len(choice))] for choice in choices]
            jobs.append(_job(f"train-{part[0].speaker}-{number:05d}", part, job_seed, vary=True))
    return jobs


def _job(name: str, part: Sequence[Recording], seed: tuple[int, ...], vary: bool) -> Job:
    digits = tuple(recording.digit for recording in part)
    return Job(name, digits, part[0].speaker, tuple(recording.name for recording in part), seed, vary)


# --- the sound


def make(context: Context, job: Job) -> Utterance:
    """Make one string, write its WAV file and return its row of the manifest."""
    rng = np.random.default_rng(job.seed)
    if job.recordings:
        speaker = job.speaker
        samples = join([context.samples[name] for name in job.recordings], rng, loose=job.vary)
        if job.vary:
            samples = vary_voice(samples, rng, widest=1.25)
    else:
        speaker, samples = speak(job.digits, rng)
        samples = vary_voice(samples, rng, widest=1.12)
    if job.vary:
        samples = vary_room(samples, rng)
    file = f"wav/{job.id}.wav"
    write_wav(context.folder / file, samples, SAMPLE_RATE)
    text = " ".join(WORDS[digit] for digit in job.digits)
    return Utterance(
        job.id, file, round(len(samples) / SAMPLE_RATE, 4), text, speaker, {"recordings": list(job.recordings)}
    )


def join(parts: Sequence[np.ndarray], rng: np.random.Generator, loose: bool = False) -> np.ndarray:
    """Lay out recordings one after another over a floor of noise, with short fades and natural gaps.

    Most gaps are 30 to 300 ms, one in seven is a pause of up to 700 ms. ``loose`` draws from a wider range.
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
    """The level of the quietest tenth of the 10 ms frames: background, or the last of a word dying away."""
    hop = SAMPLE_RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    return float(np.quantile(np.sqrt(np.square(frames).mean(axis=1)), 0.1)) if len(frames) else 0.0


def speak(digits: Sequence[int], rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """Have a random voice of eSpeak NG say the digits; return its name and the samples at 8 kHz."""
    foreign = rng.random() < 0.35
    accents = sorted(ACCENTS) if foreign else [*english_voices(), "en-us", "en-us"]
    accent = accents[rng.integers(len(accents))]
    words = ACCENTS[accent].split() if foreign else WORDS
    voice = f"{accent}+{variants()[rng.integers(len(variants()))]}"
    settings = {
        "speed": int(rng.integers(90, 201)),
        "pitch": int(rng.integers(0, 91)),
        "pitch_range": int(rng.integers(10, 91)),
    }
    with EspeakVoice(voice, **settings) as speaker:
        if rng.random() < 0.3:  # in one breath
            spoken = speaker.say(" ".join(words[digit] for digit in digits))
            parts = [resample(spoken, ESPEAK_RATE, SAMPLE_RATE)]
        else:
            parts = [resample(speaker.say(words[digit]), ESPEAK_RATE, SAMPLE_RATE) for digit in digits]
    return f"espeak-{voice}", join([trim(part) for part in parts], rng, loose=True)


def vary_voice(samples: np.ndarray, rng: np.random.Generator, widest: float) -> np.ndarray:
    """Make another speaker: a vocal tract up to ``widest`` times shorter or longer, another pitch and tempo."""
    tract = np.exp(rng.uniform(-1.0, 1.0) * np.log(widest))
    pitch = np.clip(tract * np.exp(rng.normal(0.0, 0.1)), 0.8, 1.25)
    tempo = rng.uniform(0.85, 1.15)
    samples = augment.change_speed(samples, pitch)  # moves pitch, formants and tempo alike
    samples = augment.shift_formants(samples, tract / pitch, SAMPLE_RATE)
    return augment.change_tempo(samples, tempo / pitch, SAMPLE_RATE)


def vary_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another microphone, room and noise; one string in six is left as it is, but for its level."""
    if rng.random() > 1 / 6:
        if rng.random() < 0.7:
            samples = augment.equalize(samples, rng, SAMPLE_RATE)
        if rng.random() < 0.1:
            samples = augment.band_limit(samples, SAMPLE_RATE)
        if rng.random() < 0.3:
            samples = augment.reverberate(samples, rng, SAMPLE_RATE, rng.uniform(0.1, 0.5))
        if rng.random() < 0.7:
            colour = ("white", "pink", "brown")[rng.integers(3)]
            noise = augment.coloured_noise(len(samples), rng, colour)
            samples = augment.add_noise(samples, noise, rng.uniform(5.0, 40.0))
        if rng.random() < 0.05:
            samples = augment.clip(samples, rng.uniform(0.001, 0.02))
    return augment.set_level(samples, 10.0 ** rng.uniform(-1.3, -0.02))


# --- the stage


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the data of the fsdd recipe.")
    parser.add_argument("--output", type=Path, help="folder to make; left alone where it is complete")
    parser.add_argument("--fsdd-dir", type=Path, help="a copy of the dataset; otherwise it is downloaded")
    parser.add_argument("--download-dir", type=Path, default=Path("downloads"), help="default: %(default)s")
    parser.add_argument(
        "--test-speaker", default="none", metavar="NAME", help="leave NAME out; default: the official test"
    )
    parser.add_argument("--train", type=int, default=16000, help="training strings (default: %(default)s)")
    parser.add_argument(
        "--tts-share", type=float, default=0.5, help="share of them by eSpeak NG (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes; default: one a CPU")
    parser.add_argument("--list-speakers", action="store_true", help="print the speakers and do nothing else")
    options = parser.parse_args(argv)
    if options.output is None and not options.list_speakers:
        parser.error("--output is required")
    if options.train < 1:
        parser.error("--train must be at least 1")
    if not 0.0 <= options.tts_share <= 1.0:
        parser.error("--tts-share must lie between 0 and 1")
    if options.seed < 0:
        parser.error("--seed must not be negative")
    return options


def build(options: argparse.Namespace) -> None:
    if options.list_speakers:
        recordings = find_recordings(options.fsdd_dir or download(options.download_dir))
        print("\n".join(sorted({recording.speaker for recording in recordings})))
        return
    kept_options = {name: getattr(options, name) for name in ("test_speaker", "train", "tts_share", "seed")}
    with data_folder(options.output, kept_options) as folder:
        if folder is None:
            return
        recordings = find_recordings(options.fsdd_dir or download(options.download_dir))
        usable, samples, skipped = load(recordings)
        test_speaker = None if options.test_speaker == "none" else options.test_speaker
        jobs = {}
        for number, (name, members) in enumerate(split(usable, test_speaker).items()):
            seed = (options.seed, number)
            if name == "train":
                jobs[name] = plan_training(members, options.train, options.tts_share, seed)
            else:
                passes = {"dev": 3, "test_official": 8}.get(name, 2)
                jobs[name] = plan_even(name, members, passes, seed)
        (folder / "wav").mkdir()
        context = Context(folder, samples)
        sets = {
            name: list(parallel_map(make, context, of_set, options.workers, name)) for name, of_set in jobs.items()
        }
        write_sets(folder, sets, skipped)


if __name__ == "__main__":
    arguments = parse(None)
    sys.exit(exit_status(lambda: build(arguments)))
