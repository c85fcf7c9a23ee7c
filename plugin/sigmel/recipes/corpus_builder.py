"""Builds the corpus of a recipe: sets of utterances in a folder that is complete or absent, and keeps its options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import write_wav
from sigmel.files.manifest import Row, Utterance, write_manifest, write_rows
from sigmel.files.parallel import parallel_map
from sigmel.recipes import at_least
from sigmel.recipes.download import Archive


class Sound(NamedTuple):
    """An utterance as `make` returns it; see `build_corpus`.

    Attributes:
        samples: float32 in [-1, 1], shape (samples,).
        text: the transcript.
        speaker: name of the speaker.
        extra: further fields of the manifest's row.
        fault: why the utterance cannot be used; empty if it can.
    """

    samples: np.ndarray
    text: str
    speaker: str
    extra: Mapping[str, Any] = {}
    fault: str | None = None


class Plan(NamedTuple):
    """What a corpus consists of.

    Attributes:
        jobs: set -> description of each utterance, with a field `id`.
        context: what all utterances are made from; each process gets it once.
        skipped: rows of recordings that cannot be used, each with a `reason`.
    """

    jobs: Mapping[str, Sequence[Any]]
    context: Any = None
    skipped: Sequence[Row] = ()


def corpus_parser(script: str, archive: Archive | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every data stage has.

    Args:
        script: path of the recipe's `local/data.py`.
        archive: where the corpus comes from, if it is downloaded.
    """
    recipe = Path(script).resolve().parents[1]
    parser = argparse.ArgumentParser(description=f"Make the data of {recipe.parent.name}/{recipe.name}.")
    parser.add_argument("--output", type=Path, required=True, help="folder to make; left alone if it is complete")
    parser.add_argument("--workers", type=at_least(1), help="processes (default: one a CPU)")
    if archive:
        parser.add_argument(archive.option, type=Path, dest="copy", help="copy of the corpus (default: download it)")
        parser.add_argument(
            "--download-dir", type=Path, default=recipe / "downloads", help="for downloads (default: %(default)s)"
        )
    return parser


def source(options: argparse.Namespace, archive: Archive) -> Path:
    """The folder of a downloaded corpus: the user's copy, or the one that is fetched now."""
    return options.copy or archive.fetch(options.download_dir)


def build_corpus(
    options: argparse.Namespace,
    plan: Callable[[argparse.Namespace], Plan],
    make: Callable[[Any, Any], Sound],
    sample_rate: int,
) -> None:
    """Build the folder `options.output`, unless it is there.

    The folder holds `wav/`, a manifest for each set, `skipped.jsonl` (utterances that cannot be used, each with its
    reason) and `config.json`: all options but paths and the number of processes.

    Args:
        options: of a parser that `corpus_parser` made.
        plan: decides which utterances there are.
        make: given the plan's context and a job, makes one utterance. Defined at the top level of a module.
        sample_rate: of the samples, in Hz.

    Raises:
        SigmelError: the folder exists and was made with other options, or a set would be empty.
    """
    kept = {
        name: value
        for name, value in vars(options).items()
        if name not in ("output", "workers", "copy", "download_dir")
    }
    if options.output.exists():
        _check_options(options.output, kept)
        print(f"{options.output}: complete, nothing to do")
        return
    with atomic_dir(options.output) as folder:
        (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        (folder / "wav").mkdir()
        planned = plan(options)
        skipped = list(planned.skipped)
        if empty := [name for name, jobs in planned.jobs.items() if not jobs]:
            raise SigmelError(f"the set {empty[0]} would be empty")
        for name, jobs in planned.jobs.items():
            made = list(
                parallel_map(_write, (make, planned.context, folder, sample_rate), jobs, options.workers, name)
            )
            skipped += [utterance for utterance in made if isinstance(utterance, dict)]
            usable = [utterance for utterance in made if isinstance(utterance, Utterance)]
            if not usable:
                raise SigmelError(f"no utterance of the set {name} can be used; the last: {skipped[-1]['reason']}")
            write_manifest(folder / f"{name}.jsonl", usable)
            hours = sum(utterance.duration for utterance in usable) / 3600
            print(f"{name}.jsonl: {len(usable)} utterances, {hours:.2f} hours")
        write_rows(folder / "skipped.jsonl", skipped)
        print(f"skipped.jsonl: {len(skipped)}")
    print(f"{options.output}: complete")


def _check_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Raise a SigmelError if a folder was made with other options."""
    config = folder / "config.json"
    try:
        made_with = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SigmelError(f"{folder} exists but {config} cannot be read; remove the folder: {error}") from error
    if changed := [name for name, value in options.items() if made_with.get(name) != value]:
        raise SigmelError(f"{folder} was made with another {', '.join(changed)}; remove it or choose another folder")


def _write(shared: tuple[Callable[[Any, Any], Sound], Any, Path, int], job: Any) -> Utterance | Row:
    """Make one utterance and write its WAV file; of an utterance with a fault there is a row with the reason."""
    make, context, folder, sample_rate = shared
    sound = make(context, job)
    seconds = round(len(sound.samples) / sample_rate, 4)
    utterance = Utterance(job.id, f"wav/{job.id}.wav", seconds, sound.text, sound.speaker, dict(sound.extra))
    if sound.fault:
        return utterance.to_row() | {"reason": sound.fault}
    write_wav(folder / utterance.audio_filepath, sound.samples, sample_rate)
    return utterance
