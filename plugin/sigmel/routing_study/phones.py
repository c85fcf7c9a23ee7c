"""The phone that is spoken in each frame, by an alignment that comes with the audio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigmel.errors import SigmelError, reading
from sigmel.routing_study.agreement import Labels

# [start, end, label], in seconds and in the order of their starts.
Phones = Sequence[tuple[float, float, str]]


def read_alignments(path: Path) -> dict[str, Phones]:
    """The phones of each utterance, by its id.

    Args:
        path: a file of lines `id channel start duration phone ...` (NIST's CTM), or a folder of files
            `<id>.TextGrid` (Praat's, in the long form), at any depth, with a tier "phones".

    Raises:
        SigmelError: the path is missing, or holds neither CTM nor TextGrids; the message names the file and line.
    """
    if path.is_dir():
        found = {file.stem: _read_textgrid(file) for file in sorted(path.rglob("*.TextGrid"))}
    elif path.is_file():
        found = _read_ctm(path)
    else:
        raise SigmelError(f"{path}: no such alignment; give a CTM file, or a folder of TextGrid files")
    return {name: sorted(phones) for name, phones in found.items()}


def with_phones(rows: Sequence[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Rows of a manifest with the phones of `read_alignments`, by their ids.

    Raises:
        SigmelError: see `read_alignments`, or no row has an alignment.
    """
    alignments = read_alignments(path)
    if not any(row["id"] in alignments for row in rows):
        raise SigmelError(f"{path}: knows none of the ids of the manifest, such as {rows[0]['id']!r}")
    return [row | {"phones": alignments.get(row["id"])} for row in rows]


def label_frames(rows: Sequence[dict[str, Any]], frames: Sequence[int], frame_seconds: float) -> Labels | None:
    """The phones of the frames of utterances, one after the other; None if no utterance has an alignment.

    A frame's phone is the one in the middle of its time: frame t of an utterance lasts from t to t + 1 times
    `frame_seconds`.

    Args:
        rows: rows of a manifest, which may have an alignment under "phones", see `Phones`.
        frames: number of frames of each utterance.
        frame_seconds: seconds between two frames.

    Raises:
        SigmelError: see `phones_of`.
    """
    numbers: dict[str, int] = {}
    values = [
        _spoken(phones_of(row), (torch.arange(count, dtype=torch.float64) + 0.5) * frame_seconds, numbers)
        for row, count in zip(rows, frames, strict=True)
    ]
    return Labels(torch.cat(values), list(numbers)) if numbers else None


def phones_of(row: dict[str, Any]) -> Phones:
    """The alignment that a row of a manifest has under "phones", or an empty list.

    Raises:
        SigmelError: "phones" is no alignment; the message names the utterance and the phone.
    """
    phones = row.get("phones") or []
    if not isinstance(phones, list):
        raise SigmelError(f"utterance {row['id']!r}: phones must be a list of [start, end, phone], not {phones!r}")
    previous = 0.0
    for number, phone in enumerate(phones):
        try:
            start, end, label = phone
            right = previous <= start <= end and isinstance(label, str)
        except (TypeError, ValueError):
            right = False
        if not right:
            wanted = "[start, end, phone], in seconds, after the one before"
            raise SigmelError(f"utterance {row['id']!r}: phones[{number}] is {phone!r}, not {wanted}")
        previous = start
    return phones


def _spoken(phones: Phones, times: Tensor, numbers: dict[str, int]) -> Tensor:
    """(T,) int64 numbers of the phones that are spoken at (T,) times, or -1; a new label gets a new number."""
    if not phones:
        return torch.full(times.shape, -1)
    starts, ends, labels = zip(*phones, strict=True)
    named = torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels])
    last = torch.searchsorted(torch.tensor(starts, dtype=torch.float64), times, right=True) - 1  # the last that began
    here = (last >= 0) & (times < torch.tensor(ends, dtype=torch.float64)[last])
    return torch.where(here, named[last], -1)


def _read_ctm(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    with reading(path, "a text file in UTF-8"):
        lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        words = line.split(";;")[0].split()
        if not words:
            continue
        try:
            name, _, start, duration, label = words[:5]
            found.setdefault(name, []).append((float(start), float(start) + float(duration), label))
        except ValueError as error:
            raise SigmelError(f"{path}:{number}: expected 'id channel start duration phone': {line!r}") from error
    return found


def _read_textgrid(path: Path) -> list[tuple[float, float, str]]:
    """The phones of a TextGrid file; an interval without text has no phone."""
    with reading(path, "a text file in UTF-8"):
        tiers = re.split(r"^\s*item \[\d+\]:", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    phones = next((tier for tier in tiers if re.search(r'name = "phones"', tier)), None)
    if phones is None:
        raise SigmelError(f"{path}: has no tier named phones")
    intervals = re.findall(r'xmin = ([\d.e-]+)\s+xmax = ([\d.e-]+)\s+text = "((?:[^"]|"")*)"', phones)
    return [(float(start), float(end), text.strip()) for start, end, text in intervals if text.strip()]
