"""Manifests: one utterance a line, in JSON, as NeMo reads and writes them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path

Row = dict[str, Any]  # a line of a manifest; of a list of utterances that were left out, with a `reason`
_FIELDS = ("id", "audio_filepath", "duration", "text", "speaker")


@dataclass(frozen=True)
class Utterance:
    """One recording and its transcript.

    Attributes:
        id: unique within a manifest.
        audio_filepath: absolute, or relative to the manifest's folder.
        duration: in seconds.
        text: the transcript; empty where there is none.
        speaker: name of the speaker; empty where unknown.
        extra: the other fields of the manifest's row.
    """

    id: str
    audio_filepath: str
    duration: float
    text: str = ""
    speaker: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        """Raise a SigmelError that names the utterance and the field with a wrong type or value."""
        for name in ("id", "audio_filepath", "text", "speaker"):
            if not isinstance(getattr(self, name), str):
                raise SigmelError(f"utterance {self.id!r}: {name} must be a string, not {getattr(self, name)!r}")
        for name in ("id", "audio_filepath"):
            if not getattr(self, name):
                raise SigmelError(f"utterance {self.id!r}: {name} is empty")
        duration = self.duration
        if isinstance(duration, bool) or not isinstance(duration, (int, float)) or not 0 <= duration < math.inf:
            raise SigmelError(f"utterance {self.id!r}: duration must be a number of seconds, not {duration!r}")
        clash = sorted(set(self.extra) & set(_FIELDS))
        if clash:
            raise SigmelError(f"utterance {self.id!r}: extra repeats {', '.join(clash)}")

    def within(self, folder: str | os.PathLike[str]) -> Utterance:
        """The utterance with an absolute path; a relative path is taken from a folder."""
        return replace(self, audio_filepath=str(Path(folder).resolve() / self.audio_filepath))

    def to_row(self) -> Row:
        """The row of a manifest."""
        return {name: getattr(self, name) for name in _FIELDS} | self.extra

    @classmethod
    def from_row(cls, row: Row) -> Utterance:
        """The utterance of a manifest's row; a row without an id is named after its audio file.

        Raises:
            SigmelError: `audio_filepath` or `duration` is missing, or a value is wrong.
        """
        missing = [name for name in ("audio_filepath", "duration") if name not in row]
        if missing:
            raise SigmelError(f"{' and '.join(missing)} missing")
        known = {name: row[name] for name in _FIELDS if name in row}
        known.setdefault("id", Path(str(row["audio_filepath"])).stem)
        utterance = cls(**known, extra={name: value for name, value in row.items() if name not in _FIELDS})
        utterance.validate()
        return utterance


def read_manifest(path: str | os.PathLike[str]) -> Iterator[Utterance]:
    """Yield the utterances of a manifest one by one; blank lines are passed over.

    Raises:
        SigmelError: the file is missing, or a line is not a row of a manifest; the message says `file:line`.
    """
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}")
    except FileNotFoundError as error:
        raise SigmelError(f"{path}: no such manifest") from error
    except UnicodeDecodeError as error:
        raise SigmelError(f"{path}: not a text file in UTF-8: {error}") from error


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a manifest, with absolute paths of their audio.

    Raises:
        SigmelError: see `read_manifest`; or the manifest holds no utterance.
    """
    rows = [utterance.within(Path(path).parent).to_row() for utterance in read_manifest(path)]
    if not rows:
        raise SigmelError(f"{path}: holds no utterance")
    return rows


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> int:
    """Write a manifest atomically.

    Returns:
        The number of utterances written.

    Raises:
        SigmelError: an utterance has a wrong value, or two share an id.
    """
    seen: set[str] = set()

    def rows() -> Iterator[Row]:
        for utterance in utterances:
            utterance.validate()
            if utterance.id in seen:
                raise SigmelError(f"{path}: two utterances have the id {utterance.id!r}")
            seen.add(utterance.id)
            yield utterance.to_row()

    write_rows(path, rows())
    return len(seen)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write rows in JSON, one a line, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _parse(line: str, where: str) -> Utterance:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SigmelError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise SigmelError(f"{where}: expected a JSON object, got {line.strip()[:40]!r}")
    try:
        return Utterance.from_row(row)
    except SigmelError as error:
        raise SigmelError(f"{where}: {error}") from error
