"""`sigmel score`: word and character error rates of decoded test sets."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.scoring.error_rates import read_utterances, result_row, score
from sigmel.scoring.results import MEASURED, add_rows, environment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel score`."""
    parser.add_argument(
        "decoded", nargs="+", type=Path, help="JSON lines with id, text and pred_text, or a folder of such files"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of details; must not exist yet")
    parser.add_argument("--reference", type=Path, help="manifest with the references of the one decoded file, by id")
    parser.add_argument("--results", type=Path, help="results.json to merge a row for each test set into")
    parser.add_argument("--train-facts", type=Path, help="train.json of the model, for the rows")
    parser.add_argument(
        "--tag", nargs="*", default=[], metavar="KEY=VALUE", help="what tells the system apart: host, size, seed, ..."
    )


def run(args: argparse.Namespace) -> int:
    """Score every decoded test set."""
    files = _decoded_files(args.decoded)
    if args.reference and len(files) != 1:
        raise SigmelError(f"--reference goes with one decoded file, not {len(files)}")
    tags, training = _tags(args.tag), _facts(args.train_facts)
    results, made_with = [], environment()
    with atomic_dir(args.output) as folder:
        for file in files:
            rows = read_utterances(file, ["pred_text"] if args.reference else ["text", "pred_text"])
            if args.reference:
                rows = _with_references(rows, args.reference, file)
            (folder / file.stem).mkdir()
            words, characters = score(rows, folder / file.stem)
            row = result_row(file.stem, words, characters) | tags
            row |= {name: training.get(name) for name in ("params_total", "params_active")}
            row["training_seconds"] = training.get("seconds")
            row["rtfx"] = _facts(file.with_suffix(".timing.json")).get("rtfx")
            results.append(row | {"environment": made_with})
            print(
                f"{file.stem}: WER {row['wer']:.2f} % (95 %: {row['wer_low']:.2f} to {row['wer_high']:.2f}), "
                f"CER {row['cer']:.2f} %, {words.total} words: {words.sub} sub, {words.delete} del, {words.insert} ins"
            )
        if args.results:
            add_rows(args.results, results)
    return 0


def _decoded_files(paths: Sequence[Path]) -> list[Path]:
    """The decoded sets among files and folders.

    Raises:
        SigmelError: a path is missing, or there is no decoded set.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise SigmelError(f"{path}: no such file or folder; decode a test set first")
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    files = [file for file in files if not file.name.endswith(".skipped.jsonl")]
    if not files:
        raise SigmelError(f"{paths[0]}: holds no decoded set (*.jsonl)")
    return files


def _tags(given: Sequence[str]) -> dict[str, Any]:
    """The tags of the rows.

    Raises:
        SigmelError: a tag without a name or value, named like another field, or a seed that is not a number.
    """
    tags: dict[str, Any] = {}
    for tag in given:
        name, equals, value = tag.partition("=")
        if not (name and equals) or name in MEASURED | {"test_set"}:
            raise SigmelError(f"--tag: {tag!r} is not of the form KEY=VALUE, or a row has another field of this name")
        if name == "seed" and not value.isdecimal():
            raise SigmelError(f"--tag: {tag!r}: a seed is a whole number")
        tags[name] = int(value) if name == "seed" else value
    return tags


def _with_references(rows: list[dict[str, Any]], manifest: Path, file: Path) -> list[dict[str, Any]]:
    """The rows of a manifest with the hypotheses of decoded rows; prints which utterances have no hypothesis.

    Raises:
        SigmelError: a hypothesis has an id that no reference has.
    """
    references = {row["id"]: row for row in read_utterances(manifest, ["text"])}
    hypotheses = {row["id"]: row["pred_text"] for row in rows}
    if strangers := sorted(set(hypotheses) - set(references)):
        some = ", ".join(strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        raise SigmelError(f"{file}: {len(strangers)} hypotheses belong to no reference: {some}")
    if missing := [name for name in references if name not in hypotheses]:
        print(f"{file}: {len(missing)} utterances have no hypothesis and count as deleted: {', '.join(missing[:5])}")
    return [row | {"pred_text": hypotheses.get(name, "")} for name, row in references.items()]


def _facts(path: Path | None) -> dict[str, Any]:
    """The content of a JSON file; empty if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
