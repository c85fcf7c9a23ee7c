"""Transcribe manifests with a ``.nemo`` model, as fast as it goes, and time it.

``python -m sigmel.recipes.nemo.transcribe --model model.nemo --output DIR test.jsonl other.jsonl`` writes, for each
manifest, its rows with ``pred_text`` (``<name>.jsonl``), those without usable audio (``<name>.skipped.jsonl``;
transcribed as nothing, so that they count as deletions), the time it took (``<name>.timing.json``) and, with
``--routing-stats``, where the router sent the frames (``<name>.routing.json``). ``--graph`` decodes as a graph allows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from nemo.collections.asr.parts.mixins.transcription import TranscribeConfig
from nemo.core import ModelPT
from nemo.utils import logging
from torch.utils.data import DataLoader, IterableDataset

from sigmel.decoding.search.decoder import add_decoding_options, decoding_options
from sigmel.errors import SigmelError, exit_status
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_rows
from sigmel.hosts.nemo.graph import use_graph
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.restore import load_model
from sigmel.routing_study.statistics import WATCHED, watch_routing
from sigmel.scoring.decoded import write_decoded

Row = dict[str, Any]


class Batches(IterableDataset):
    """Batches of utterances, longest first, in the form NeMo's `transcribe` takes.

    Attributes:
        done: the rows yielded so far, in order.
        skipped: the rows whose audio cannot be used, each with its ``reason``.
    """

    def __init__(self, rows: list[Row], batch_size: int, sample_rate: int, min_samples: int) -> None:
        self.rows = sorted(rows, key=_duration, reverse=True)
        self.batch_size, self.sample_rate, self.min_samples = batch_size, sample_rate, min_samples

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, None, None]]:
        self.done: list[Row] = []
        self.skipped: list[Row] = []
        batch: list[torch.Tensor] = []
        for row in self.rows:
            try:
                audio = torch.from_numpy(read_audio(row["audio_filepath"], self.sample_rate)[0])
                if len(audio) < self.min_samples:
                    raise SigmelError(f"{len(audio)} samples are too few to transcribe; need {self.min_samples}")
            except (SigmelError, OSError) as error:
                self.skipped.append(row | {"reason": str(error)})
                continue
            batch.append(audio)
            self.done.append(row)
            if len(batch) == self.batch_size:
                yield self._collate(batch)
                batch = []
        if batch:
            yield self._collate(batch)

    @staticmethod
    def _collate(batch: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        lengths = torch.tensor([len(audio) for audio in batch])
        return torch.nn.utils.rnn.pad_sequence(batch, batch_first=True), lengths, None, None


def transcribe(model: ModelPT, rows: list[Row], batch_size: int) -> tuple[list[Row], list[Row], float]:
    """Transcribe the audio of manifest rows with the model's own decoding.

    Returns:
        The rows in their order with ``pred_text``, those of them whose audio could not be used (with a ``reason``;
        their ``pred_text`` is empty), and the seconds it took, reading included.
    """
    batches = Batches(rows, batch_size, *_audio_of(model))
    loader = DataLoader(batches, batch_size=None)
    started = time.monotonic()
    with torch.inference_mode():
        outputs = model.transcribe_generator(loader, TranscribeConfig(batch_size=batch_size, verbose=False))
        texts = [hypothesis.text for hypotheses in outputs for hypothesis in hypotheses]
    seconds = time.monotonic() - started
    predictions = {id(row): text for row, text in zip(batches.done, texts, strict=True)}
    return [row | {"pred_text": predictions.get(id(row), "")} for row in rows], batches.skipped, seconds


def _audio_of(model: ModelPT) -> tuple[int, int]:
    """The sample rate that a model takes, and the fewest samples."""
    if isinstance(model, DMelLMModel):
        return model.dmel.sample_rate, 1
    sample_rate = int(model.preprocessor._sample_rate)
    return sample_rate, 2 * int(model.cfg.preprocessor.window_stride * sample_rate)  # fewer cannot be normalised


def routing_report(model: ModelPT, rows: list[Row], batch_size: int) -> dict[str, Any] | None:
    """Transcribe once more, untimed, and see where the router sends the frames.

    Returns:
        See `RoutingWatch.report`; None for a model without routers, or where no row has usable audio.
    """
    with watch_routing(model) as watch:
        if watch is None:
            return None
        rows, skipped, _ = transcribe(model, rows, batch_size)
    unreadable = {row["audio_filepath"] for row in skipped}
    rows = sorted((row for row in rows if row["audio_filepath"] not in unreadable), key=_duration, reverse=True)
    return watch.report(rows, model.cfg.preprocessor.window_stride) if rows else None


def main(argv: Sequence[str] | None = None) -> int:
    """Transcribe from the command line."""
    parser = argparse.ArgumentParser(description="Transcribe manifests with a .nemo model.")
    parser.add_argument("manifests", nargs="+", type=Path, help="manifests (JSON lines)")
    parser.add_argument("--model", type=Path, required=True, help="the .nemo file")
    parser.add_argument("--output", type=Path, required=True, help="folder for the transcripts; must not exist yet")
    parser.add_argument("--batch-size", type=int, default=16, help="utterances at a time (default: %(default)s)")
    parser.add_argument("--routing-stats", action="store_true", help="also write where the router sent the frames")
    add_decoding_options(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Transcribe the manifests that `sigmel transcribe` was given."""
    if args.batch_size < 1:
        raise SigmelError(f"--batch-size: {args.batch_size} must be at least 1")
    manifests = {path: read_rows(path) for path in args.manifests}
    logging.setLevel(logging.ERROR)
    model = load_model(args.model, ModelPT)
    if args.graph:
        use_graph(model, args.graph, **decoding_options(args))
    transcribe(model, next(iter(manifests.values()))[: args.batch_size], args.batch_size)  # warm up
    with atomic_dir(args.output) as folder:
        for path, rows in manifests.items():
            print(_decode(model, path.stem, rows, folder, args))
    return 0


def _decode(model: ModelPT, name: str, rows: list[Row], folder: Path, args: argparse.Namespace) -> str:
    """Write everything about one manifest; return a line about it."""
    found, skipped, seconds = transcribe(model, rows, args.batch_size)
    audio = sum(map(_duration, rows)) - sum(map(_duration, skipped))
    if args.routing_stats and (report := routing_report(model, rows[:WATCHED], args.batch_size)):
        (folder / f"{name}.routing.json").write_text(json.dumps(report))
    return write_decoded(folder, name, found, skipped, audio, seconds, args.batch_size)


def _duration(row: Row) -> float:
    return row["duration"]


if __name__ == "__main__":
    sys.exit(exit_status(main))
