"""Word and character error rates.

Alignments are kaldialign's, with unit costs. Confidence intervals are the 95 % bootstrap over utterances of Bisani and
Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation" (ICASSP 2004).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError, optional_library

GAP = "*"


@dataclass(frozen=True)
class ErrorRate:
    """Errors of a set, in words or characters.

    Attributes:
        total: words or characters of the references.
        sub, delete, insert: words or characters that were substituted, deleted and inserted.
        utterances, utterances_wrong: number of utterances, and of utterances with an error.
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
        """Errors per hundred words or characters of the references."""
        return 100 * (self.sub + self.delete + self.insert) / self.total


def error_rate(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]], seed: int = 0) -> ErrorRate:
    """Score hypotheses against references, each a sequence of words, or of characters.

    An utterance with an empty reference counts with its insertions.

    Args:
        references: of each utterance.
        hypotheses: of each utterance.
        seed: of the bootstrap.

    Raises:
        SigmelError: the numbers of references and hypotheses differ, or all references are empty.
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


def score(rows: Sequence[dict[str, Any]], folder: Path) -> tuple[ErrorRate, ErrorRate]:
    """Score decoded utterances, and write what readers look at.

    `ref.trn` and `hyp.trn` are in sclite's format, "words (speaker-id)"; `per_utt.jsonl` holds the errors of each
    utterance and its aligned words, as pairs with `*` for a gap.

    Args:
        rows: with `id`, `text` and `pred_text`, and perhaps `speaker`.
        folder: existing folder to write into.

    Returns:
        Word and character error rates; a space between words counts as a character.

    Raises:
        SigmelError: see `error_rate`.
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
    """The row of `results.json` for a scored test set, without tags."""
    row: dict[str, Any] = {"test_set": test_set}
    row |= {"utterances": words.utterances, "utterances_wrong": words.utterances_wrong}
    for rate, name, units, prefix in ((words, "wer", "words", ""), (characters, "cer", "characters", "character_")):
        row |= {name: round(rate.percent, 2), f"{name}_low": round(rate.low, 2), f"{name}_high": round(rate.high, 2)}
        row |= {units: rate.total, f"{prefix}sub": rate.sub, f"{prefix}del": rate.delete, f"{prefix}ins": rate.insert}
    return row


def load_kaldialign() -> Any:
    """Import the module kaldialign.

    Raises:
        SigmelError: kaldialign is not installed.
    """
    return optional_library("kaldialign", "scoring needs", "pip install 'sigmel[score]'")


def _trn_id(row: dict[str, Any]) -> str:
    speaker = row.get("speaker") or "unknown"
    return "(" + re.sub(r"[\s()]", "_", f"{speaker}-{row['id']}") + ")"


def read_utterances(path: Path, fields: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Read JSON lines with texts in `fields`, and a unique `id` each.

    Raises:
        SigmelError: a line is not JSON, lacks a field or repeats an id; or the file is empty.
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
