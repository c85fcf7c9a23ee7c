"""What decoding a test set leaves behind, for `sigmel score` and for the reader; the same from every host."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def write_decoded(
    folder: Path,
    name: str,
    rows: Sequence[dict[str, Any]],
    skipped: Sequence[dict[str, Any]],
    audio_seconds: float,
    seconds: float,
    batch_size: int,
) -> str:
    """Write ``<name>.jsonl``, ``<name>.skipped.jsonl`` and ``<name>.timing.json`` into an existing folder.

    Args:
        folder: where to.
        name: of the test set.
        rows: of the manifest, with ``pred_text``.
        skipped: those without usable audio, with a ``reason``.
        audio_seconds: of the audio that was transcribed.
        seconds: that this took.
        batch_size: utterances at a time.

    Returns:
        A line about it.
    """
    timing = {"audio_seconds": round(audio_seconds, 2), "seconds": round(seconds, 3)}
    timing |= {"rtfx": round(audio_seconds / seconds, 1), "batch_size": batch_size, "threads": torch.get_num_threads()}
    (folder / f"{name}.timing.json").write_text(json.dumps(timing, indent=2) + "\n")
    for suffix, listed in (("", rows), (".skipped", skipped)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
        (folder / f"{name}{suffix}.jsonl").write_text(text, encoding="utf-8")
    note = f", {len(skipped)} without usable audio (see {name}.skipped.jsonl)" if skipped else ""
    return f"{name}: {len(rows)} utterances, {timing['rtfx']:.0f} x real time{note}"
