"""Which phone is spoken in a frame, by an alignment that comes with the audio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.routing_study.agreement import Labels

# [start, end, label]: seconds, and what is spoken between them; in the order of their starts.
Phones = Sequence[tuple[float, float, str]]


def read_alignments(path: Path) -> dict[str, Phones]:
    """The phones of each utterance, by its id.

    Args:
        path: a file of lines ``id channel start duration phone ...`` (NIST's CTM), or a folder of files
            ``<id>.TextGrid`` (Praat's, in the long form), folders in it included, with a tier "phones".

    Raises:
        SigmelError: there is none, or what is there is none of these; the message says in which file, and line.
    """
    if path.is_dir():
        found = {file.stem: _read_textgrid(file) for file in sorted(path.rglob("*.TextGrid"))}
    elif path.is_file():
        found = _read_ctm(path)
    else:
        raise SigmelError(f"{path}: no such alignment; give a CTM file, or a folder of TextGrid files")
    return {name: sorted(phones) for name, phones in found.items()}


def label_frames(rows: Sequence[dict[str, Any]], frames: Sequence[int], frame_seconds: float) -> Labels | None:
    """The phones of the frames of utterances one after the other; None where none of them has an alignment.

    A frame's phone is the one in the middle of its time: frame t of an utterance lasts from t to t + 1 times
    `frame_seconds`.

    Args:
        rows: of a manifest; those with an alignment have it under "phones", see `Phones`.
        frames: how many each utterance has.
        frame_seconds: between two frames.

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
    """What a row of a manifest has under "phones"; nothing where it has none.

    Raises:
        SigmelError: that is no alignment; the message names the utterance and the phone.
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
    """(T,) int64 numbers of what is spoken at (T,) times, -1 for nothing; a new label gets a new number."""
    if not phones:
        return torch.full(times.shape, -1)
    starts, ends, labels = zip(*phones, strict=True)
    named = torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels])
    last = torch.searchsorted(torch.tensor(starts, dtype=torch.float64), times, right=True) - 1  # the last that began
    here = (last >= 0) & (times < torch.tensor(ends, dtype=torch.float64)[last])
    return torch.where(here, named[last], -1)


def _read_ctm(path: Path) -> dict[str, list[tuple[float, float, str]]]:
    found: dict[str, list[tuple[float, float, str]]] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
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
    """Its phones; an interval without text is none."""
    tiers = re.split(r"^\s*item \[\d+\]:", _text(path), flags=re.MULTILINE)
    phones = next((tier for tier in tiers if re.search(r'name = "phones"', tier)), None)
    if phones is None:
        raise SigmelError(f"{path}: has no tier named phones")
    intervals = re.findall(r'xmin = ([\d.e-]+)\s+xmax = ([\d.e-]+)\s+text = "((?:[^"]|"")*)"', phones)
    return [(float(start), float(end), text.strip()) for start, end, text in intervals if text.strip()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SigmelError(f"{path}: not a text file in UTF-8: {error}") from error
