"""Audio into text with a model of any host: one loop, one clock, one writer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from sigmel.files.batches import read_batches
from sigmel.files.manifest import Row, write_rows
from sigmel.routing_study.statistics import WATCHED, watch_routing

Batches = Iterable[list[np.ndarray]]  # each waveform is float32 (samples,)


@dataclass(frozen=True)
class Transcriber:
    """A recogniser of a host.

    Attributes:
        module: the model, whose routers can be watched.
        sample_rate: Hz.
        transcribe: gives `pred_text` of each waveform of batches, in order, and, if the model was loaded for
            timestamps, `words`, each with `word`, `start` and `end` (seconds).
        encode: sends batches through the encoder, for its routers to be watched.
        batched: whether the host takes several utterances at a time.
    """

    module: nn.Module
    sample_rate: int
    transcribe: Callable[[Batches], list[Row]]
    encode: Callable[[Batches], object]
    batched: bool = True


@dataclass(frozen=True)
class Transcribed:
    """What was made of the rows of a manifest.

    Attributes:
        rows: the rows in their order, with `pred_text`, and `words` if the model gives timestamps; the `pred_text` of
            a row without usable audio is empty, so that its words count as deleted.
        skipped: the rows without usable audio, each with its `reason`.
        audio_seconds: seconds of audio that were transcribed.
        seconds: seconds this took, reading included.
        batch_size: utterances at a time.
    """

    rows: list[Row]
    skipped: list[Row]
    audio_seconds: float
    seconds: float
    batch_size: int

    def write(self, folder: Path, name: str) -> str:
        """Write `<name>.jsonl`, `<name>.skipped.jsonl` and `<name>.timing.json`, which `sigmel score` reads.

        Returns:
            A line about it.
        """
        rtfx = round(self.audio_seconds / self.seconds, 1)
        timing = {"audio_seconds": round(self.audio_seconds, 2), "seconds": round(self.seconds, 3), "rtfx": rtfx}
        timing |= {"batch_size": self.batch_size, "threads": torch.get_num_threads()}
        (folder / f"{name}.timing.json").write_text(json.dumps(timing, indent=2) + "\n")
        write_rows(folder / f"{name}.jsonl", self.rows)
        write_rows(folder / f"{name}.skipped.jsonl", self.skipped)
        note = f", {len(self.skipped)} without usable audio (see {name}.skipped.jsonl)" if self.skipped else ""
        return f"{name}: {len(self.rows)} utterances, {rtfx:.0f} x real time{note}"


class Reader:
    """Reads the audio of rows in batches, the longest first, and remembers what it read.

    Attributes:
        read: the rows that were read, in that order.
        seconds: the seconds of audio of each of them.
        skipped: the rows without usable audio, each with its `reason`.
    """

    def __init__(self, rows: Sequence[Row], sample_rate: int, batch_size: int, progress: str | None = None) -> None:
        self.read: list[Row] = []
        self.seconds: list[float] = []
        self.skipped: list[Row] = []
        longest_first = sorted(rows, key=lambda row: row["duration"], reverse=True)
        self._batches = read_batches(longest_first, sample_rate, batch_size, self.skipped)
        self._rate = sample_rate
        self._bar = tqdm(total=len(rows), desc=progress, unit="utt", disable=progress is None)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        with self._bar:
            for rows, waveforms in self._batches:
                yield waveforms
                self.read += rows
                self.seconds += [len(samples) / self._rate for samples in waveforms]
                self._bar.update(len(self.read) + len(self.skipped) - self._bar.n)


def transcribe(model: Transcriber, rows: Sequence[Row], batch_size: int, progress: str | None = None) -> Transcribed:
    """Transcribe the audio of manifest rows.

    Args:
        model: the recogniser.
        rows: of a manifest; a `duration` of 0 is replaced by that of the audio.
        batch_size: utterances at a time, if the host takes several.
        progress: name of the progress bar. Default: no bar.
    """
    batch_size = batch_size if model.batched else 1
    reader = Reader(rows, model.sample_rate, batch_size, progress)
    started = time.monotonic()
    texts = model.transcribe(reader)
    seconds = time.monotonic() - started
    found = {}
    for row, text, duration in zip(reader.read, texts, reader.seconds, strict=True):
        found[id(row)] = row | {"duration": row["duration"] or duration} | text
    done = [found.get(id(row), row | {"pred_text": ""}) for row in rows]
    return Transcribed(done, reader.skipped, sum(reader.seconds), seconds, batch_size)


def routing_report(model: Transcriber, rows: Sequence[Row], batch_size: int) -> dict[str, Any] | None:
    """Where the routers of a model send the frames of some rows, which are encoded once more, untimed.

    Returns:
        See `RoutingStatistics.report`; None for a model without routers, or where no row has usable audio.
    """
    with watch_routing(model.module) as watch, torch.inference_mode():
        if watch is None:
            return None
        reader = Reader(rows[:WATCHED], model.sample_rate, batch_size if model.batched else 1)
        model.encode(reader)
    return watch.report(reader.read, reader.seconds) if reader.read else None


def transcribe_manifests(
    model: Transcriber, manifests: Mapping[str, list[Row]], folder: Path, batch_size: int, routing_stats: bool
) -> bool:
    """Write the transcripts of manifests, by name, into an existing folder, see `Transcribed.write`.

    With `routing_stats`, also write `<name>.routing.json`, see `routing_report`.

    Returns:
        Whether all audio could be used.
    """
    transcribe(model, next(iter(manifests.values()))[:batch_size], batch_size)  # warm up
    complete = True
    for name, rows in manifests.items():
        found = transcribe(model, rows, batch_size, name)
        if routing_stats and (report := routing_report(model, rows, batch_size)):
            (folder / f"{name}.routing.json").write_text(json.dumps(report))
        print(found.write(folder, name))
        complete &= not found.skipped
    return complete
