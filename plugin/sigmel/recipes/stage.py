"""What data stages of recipes have in common: options, and a folder, complete or absent, that says how it was made."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.manifest import Skipped, Utterance, write_manifest, write_skipped
from sigmel.files.parallel import parallel_map

Job = TypeVar("Job")


def stage_parser(recipe: str) -> argparse.ArgumentParser:
    """A parser of the options that every data stage has."""
    parser = argparse.ArgumentParser(description=f"Make the data of the {recipe} recipe.")
    parser.add_argument("--output", type=Path, help="folder to make; left alone where it is complete", required=True)
    parser.add_argument("--workers", type=at_least(1), help="processes; default: one a CPU")
    return parser


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add the option of the random numbers."""
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the random numbers; default: %(default)s")


def add_download(parser: argparse.ArgumentParser, option: str) -> None:
    """Add the options of a dataset: a copy that is there, or where to download it to."""
    parser.add_argument(option, type=Path, help="a copy of the dataset; otherwise it is downloaded")
    parser.add_argument("--download-dir", type=Path, default=Path("downloads"), help="default: %(default)s")


def add_sizes(parser: argparse.ArgumentParser, train: int, dev: int, test: int, least: int = 1) -> None:
    """Add the options of how many utterances the sets have, with these defaults, each at least so many."""
    for option, default, of in (
        ("--train", train, "training"),
        ("--dev", dev, "development"),
        ("--test", test, "each test"),
    ):
        each = f"utterances of {of}, at least {least}; default: %(default)s"
        parser.add_argument(option, type=at_least(least), default=default, help=each)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is such a whole number."""

    def number(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {least}")
        return int(text)

    return number


@contextmanager
def data_folder(output: Path, options: Mapping[str, Any]) -> Iterator[Path | None]:
    """Yield a folder to fill, which becomes ``output`` when complete; None where ``output`` is complete already.

    ``config.json`` in it keeps the options.

    Raises:
        SigmelError: ``output`` exists and was made from other options.
    """
    config = output / "config.json"
    if output.exists():
        try:
            made_from = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SigmelError(f"{output} exists but {config} cannot be read; remove the folder: {error}") from error
        changed = [name for name, value in options.items() if made_from.get(name) != value]
        if changed:
            raise SigmelError(f"{output} was made with another {', '.join(changed)}; remove it or choose another")
        print(f"{output}: complete, nothing to do")
        yield None
        return
    with atomic_dir(output) as folder:
        (folder / "config.json").write_text(json.dumps(dict(options), indent=2) + "\n", encoding="utf-8")
        yield folder
    print(f"{output}: complete")


def make_sets(
    folder: Path,
    make: Callable[[Any, Job], Utterance],
    context: Any,
    jobs: Mapping[str, Sequence[Job]],
    workers: int | None,
    skipped: Sequence[Skipped] = (),
) -> None:
    """Make the utterances of each set, whose audio goes to ``wav/``; write a manifest a set and ``skipped.jsonl``.

    Args:
        folder: to write into.
        make, context, workers: see `sigmel.files.parallel.parallel_map`.
        jobs: of each set.
        skipped: what was left out of them.

    Raises:
        SigmelError: a set is empty.
    """
    for name, of_set in jobs.items():
        if not of_set:
            raise SigmelError(f"the set {name} would be empty")
    (folder / "wav").mkdir()
    for name, of_set in jobs.items():
        utterances = list(parallel_map(make, context, of_set, workers, name))
        write_manifest(folder / f"{name}.jsonl", utterances)
        hours = sum(utterance.duration for utterance in utterances) / 3600
        print(f"{name}.jsonl: {len(utterances)} utterances, {hours:.2f} hours")
    write_skipped(folder / "skipped.jsonl", skipped)
    print(f"skipped.jsonl: {len(skipped)}")
