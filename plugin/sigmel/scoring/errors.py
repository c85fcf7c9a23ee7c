"""Word and character error rates.

Alignments are kaldialign's, with unit costs. Confidence intervals are the 95 % bootstrap over utterances of Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.scoring.results import add_rows, environment

GAP = "*"


@dataclass(frozen=True)
class ErrorRate:
    """Errors of a set, in words or characters.

    Attributes:
        total: units of the references.
        sub, delete, insert: substituted, deleted and inserted units.
        utterances, utterances_wrong: how many there are, and how many hold an error.
        low, high: the 95 % confidence interval of `percent`.
    """

    total: int
    sub: int
    delete: int
    insert: int
    utterances: int
    utterances_wrong: int
    low: float
    high: float

    @property
    def percent(self) -> float:
        """Errors per hundred units of the reference."""
        return 100 * (self.sub + self.delete + self.insert) / self.total


def error_rate(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], seed: int = 0) -> ErrorRate:
    """Score hypotheses against references, each a sequence of words, or of characters.

    An utterance with an empty reference counts with its insertions.

    Args:
        references: one an utterance.
        hypotheses: as many.
        seed: of the bootstrap.

    Raises:
        SigmelError: their numbers differ, or all references are empty, so that there is no rate.
    """
    kaldialign = load_kaldialign()
    if len(references) != len(hypotheses):
        raise SigmelError(f"{len(references)} references, but {len(hypotheses)} hypotheses")
    if not any(references):
        raise SigmelError("every reference is empty, so there is no error rate")
    counts = [kaldialign.edit_distance(*pair) for pair in zip(references, hypotheses, strict=True)]
    interval = kaldialign.bootstrap_wer_ci(
        list(map(list, references)), list(map(list, hypotheses)), replications=2000, seed=seed
    )
    return ErrorRate(
        total=sum(map(len, references)),
        sub=sum(count["sub"] for count in counts),
        delete=sum(count["del"] for count in counts),
        insert=sum(count["ins"] for count in counts),
        utterances=len(counts),
        utterances_wrong=sum(count["total"] > 0 for count in counts),
        low=100 * max(0.0, interval["ci95min"]),
        high=100 * interval["ci95max"],
    )


def pair_up(references: dict[str, str], hypotheses: dict[str, str]) -> tuple[list[str], list[str]]:
    """Find the hypothesis of each reference.

    Returns:
        The hypotheses in the order of the references, empty where there is none, and the ids that have none.

    Raises:
        SigmelError: a hypothesis has an id that no reference has.
    """
    if strangers := sorted(set(hypotheses) - set(references)):
        raise SigmelError(
            f"{len(strangers)} hypotheses belong to no reference: {', '.join(strangers[:5])}"
            + (", ..." if len(strangers) > 5 else "")
        )
    missing = [key for key in references if key not in hypotheses]
    return [hypotheses.get(key, "") for key in references], missing


def score(rows: Sequence[dict[str, Any]], folder: Path) -> tuple[ErrorRate, ErrorRate]:
    """Score decoded utterances; write what a reader wants to see into ``folder``.

    ``ref.trn`` and ``hyp.trn`` are in sclite's format, "words (speaker-id)"; ``per_utt.jsonl`` holds each utterance's
    errors and its aligned words, as pairs with ``*`` for a gap.

    Args:
        rows: with ``id``, ``text`` and ``pred_text``, and perhaps ``speaker``.
        folder: an existing folder.

    Returns:
        Word and character error rates; a space between words counts as a character.

    Raises:
        SigmelError: as `error_rate`.
    """
    kaldialign = load_kaldialign()
    references = [row["text"].split() for row in rows]
    hypotheses = [row["pred_text"].split() for row in rows]
    words = error_rate(references, hypotheses)
    characters = error_rate(list(map(" ".join, references)), list(map(" ".join, hypotheses)))
    names = [_trn_id(row) for row in rows]
    for file, side in (("ref.trn", references), ("hyp.trn", hypotheses)):
        lines = (" ".join([*sentence, name]) + "\n" for sentence, name in zip(side, names, strict=True))
        (folder / file).write_text("".join(lines), encoding="utf-8")
    with (folder / "per_utt.jsonl").open("w", encoding="utf-8") as per_utterance:
        for row, reference, hypothesis in zip(rows, references, hypotheses, strict=True):
            count = kaldialign.edit_distance(reference, hypothesis)
            found = {"id": row["id"], "words": len(reference)} | {key: count[key] for key in ("sub", "del", "ins")}
            found |= {"text": " ".join(reference), "pred_text": " ".join(hypothesis)}
            found["alignment"] = kaldialign.align(reference, hypothesis, GAP)
            per_utterance.write(json.dumps(found, ensure_ascii=False) + "\n")
    return words, characters


def result_row(test_set: str, words: ErrorRate, characters: ErrorRate) -> dict[str, Any]:
    """Return the row of ``results.json`` for one scored set, without what is known of its system."""
    row: dict[str, Any] = {
        "test_set": test_set,
        "wer": round(words.percent, 2),
        "cer": round(characters.percent, 2),
        "sub": words.sub,
        "del": words.delete,
        "ins": words.insert,
        "words": words.total,
        "wer_low": round(words.low, 2),
        "wer_high": round(words.high, 2),
        "utterances": words.utterances,
        "utterances_wrong": words.utterances_wrong,
    }
    return row | {
        "characters": characters.total,
        "character_sub": characters.sub,
        "character_del": characters.delete,
        "character_ins": characters.insert,
        "cer_low": round(characters.low, 2),
        "cer_high": round(characters.high, 2),
    }


def load_kaldialign() -> Any:
    """The module kaldialign.

    Raises:
        SigmelError: it is not installed.
    """
    try:
        import kaldialign
    except ImportError as error:
        raise SigmelError("scoring needs kaldialign: pip install 'sigmel[score]'") from error
    return kaldialign


def _trn_id(row: dict[str, Any]) -> str:
    speaker = row.get("speaker") or "unknown"
    return "(" + re.sub(r"[\s()]", "_", f"{speaker}-{row['id']}") + ")"


def read_utterances(path: Path, fields: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Read JSON lines that must have texts in ``fields``, and each ``id`` only once.

    Raises:
        SigmelError: naming the line: it is no JSON, lacks a field or repeats an id; or the file is empty.
    """
    rows = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            absent = [field for field in ("id", *fields) if not isinstance(row.get(field), str)]
        except (json.JSONDecodeError, AttributeError) as error:
            raise SigmelError(f"{path}:{number}: not a row of JSON: {error}") from error
        if absent:
            raise SigmelError(f"{path}:{number}: needs a text in {', '.join(absent)}")
        if row["id"] in seen:
            raise SigmelError(f"{path}:{number}: the id {row['id']!r} stands there twice")
        seen.add(row["id"])
        rows.append(row)
    if not rows:
        raise SigmelError(f"{path}: holds no utterance")
    return rows


def _with_references(rows: list[dict[str, Any]], manifest: Path, file: Path) -> list[dict[str, Any]]:
    """Return the manifest's rows with the hypotheses of ``rows``; say which have none."""
    references = read_utterances(manifest, ["text"])
    hypotheses = {row["id"]: row["pred_text"] for row in rows}
    texts, missing = pair_up({row["id"]: row["text"] for row in references}, hypotheses)
    if missing:
        print(f"{file}: {len(missing)} utterances have no hypothesis and count as deleted: {', '.join(missing[:5])}")
    return [row | {"pred_text": text} for row, text in zip(references, texts, strict=True)]


def _facts(path: Path | None) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel score``."""
    parser.add_argument(
        "decoded", nargs="+", type=Path, help="JSON lines with id, text and pred_text, or a folder of such files"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the details; must not exist yet")
    parser.add_argument(
        "--reference", type=Path, help="take the references of the one decoded file from this manifest, by id"
    )
    parser.add_argument("--results", type=Path, help="merge a row a set into this results.json")
    parser.add_argument("--train-facts", type=Path, help="train.json of the model, for the row")
    parser.add_argument(
        "--tag", nargs="*", default=[], metavar="KEY=VALUE", help="what tells the system apart: host, size, seed, ..."
    )


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel score``."""
    for path in args.decoded:
        if not path.exists():
            raise SigmelError(f"{path}: no such file or folder; decode a test set first")
    files = [
        file
        for path in args.decoded
        for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])
        if not file.name.endswith(".skipped.jsonl")
    ]
    if not files:
        raise SigmelError(f"{args.decoded[0]}: holds no decoded set (*.jsonl)")
    if args.reference and len(files) != 1:
        raise SigmelError(f"--reference goes with one decoded file, not {len(files)}")
    if wrong := [tag for tag in args.tag if "=" not in tag]:
        raise SigmelError(f"--tag: {wrong[0]!r} is not of the form KEY=VALUE")
    tags: dict[str, Any] = dict(tag.split("=", 1) for tag in args.tag)
    if "seed" in tags:
        tags["seed"] = int(tags["seed"])
    training = _facts(args.train_facts)
    found = []
    with atomic_dir(args.output) as folder:
        for file in files:
            rows = read_utterances(file, ["pred_text"] if args.reference else ["text", "pred_text"])
            if args.reference:
                rows = _with_references(rows, args.reference, file)
            (folder / file.stem).mkdir()
            words, characters = score(rows, folder / file.stem)
            row = result_row(file.stem, words, characters) | tags
            row |= {f"params_{kind}": training.get(f"params_{kind}") for kind in ("total", "active")}
            row["training_seconds"] = training.get("seconds")
            row["rtfx"] = _facts(file.with_suffix(".timing.json")).get("rtfx")
            found.append(row | {"environment": environment()})
            print(
                f"{file.stem}: WER {row['wer']:.2f} % (95 %: {row['wer_low']:.2f} to {row['wer_high']:.2f}), "
                f"CER {row['cer']:.2f} %, {words.total} words: {words.sub} sub, {words.delete} del, {words.insert} ins"
            )
        if args.results:
            add_rows(args.results, found)
    return 0
