"""What training has in common in every host: data that can be learned from, `metrics.csv`, `train.json`, the model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path
from sigmel.files.audio import AudioError, check_audio, read_audio
from sigmel.files.manifest import Row, Utterance, read_manifest, write_rows
from sigmel.models.stack import ParameterCounts
from sigmel.tokens.text import load_tokenizer, uncovered

METRICS = ("step", "seconds", "train_loss", "aux_loss", "attention_norm", "learning_rate", "val_loss", "val_wer")


def trainable(
    manifest: Path, tokenizer_dir: Path, frame_duration: float, listed: Path
) -> tuple[list[Utterance], list[Row]]:
    """Read the utterances of a manifest that CTC can learn from.

    The others (no usable audio, no text, or more text than audio) are counted on the screen and listed in a file.

    Args:
        manifest: the manifest.
        tokenizer_dir: folder of the tokenizer, which must be able to spell every transcript.
        frame_duration: seconds between two frames of the encoder.
        listed: the file that lists the others; not written if there are none.

    Returns:
        The utterances that are kept, with absolute paths, and the rows of the others, each with a `reason`.

    Raises:
        SigmelError: the tokenizer cannot spell a text, whose utterance is named, or no utterance is left.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    utterances = [utterance.within(manifest.parent) for utterance in read_manifest(manifest)]
    for utterance in utterances:
        if missing := uncovered(tokenizer, utterance.text):
            raise SigmelError(
                f"{manifest}: {utterance.id}: the tokenizer has no piece for {missing} in {utterance.text!r}"
            )

    kept, skipped = [], []
    for utterance in utterances:
        if fault := _fault(utterance, tokenizer.encode(utterance.text), frame_duration):
            skipped.append(utterance.to_row() | {"reason": fault})
        else:
            kept.append(utterance)
    if not kept:
        why = f"; of the {len(skipped)} it holds, the first: {skipped[0]['reason']}" if skipped else ""
        raise SigmelError(f"{manifest}: no utterance to learn from{why}")
    if skipped:
        write_rows(listed, skipped)
        print(f"{manifest}: left out {len(skipped)} of {len(utterances)} utterances, see {listed}")
    return kept, skipped


def _fault(utterance: Utterance, tokens: Sequence[int], frame_duration: float) -> str | None:
    """Why CTC cannot learn from an utterance; None if it can."""
    if not utterance.text.strip():
        return "empty transcript"
    try:
        samples, rate = read_audio(utterance.audio_filepath)
    except AudioError as error:
        return str(error)
    if fault := check_audio(samples, rate):
        return fault
    needed = len(tokens) + sum(a == b for a, b in pairwise(tokens))  # CTC puts a blank between equal tokens
    frames = int(len(samples) / rate / frame_duration)
    return f"transcript of {needed} tokens is longer than the audio of {frames} frames" if needed > frames else None


def write_metrics(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Write `metrics.csv`, which `sigmel plot` draws: rows with some of the columns `METRICS`."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS)
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes:
        parameters: of the model, in total and used by a frame.
        steps: steps of the optimizer.
        seconds: time of training, all resumed runs together.
    """

    parameters: ParameterCounts
    steps: int
    seconds: float

    def write(self, path: Path, save: Callable[[Path], object]) -> None:
        """Write `train.json`, from which `sigmel score` takes facts, beside the model, and then the model.

        Args:
            path: of the model, which appears only when it is complete.
            save: writes the model to the path it is given.
        """
        counts = self.parameters
        facts = {
            "seconds": round(self.seconds, 1),
            "steps": self.steps,
            "params_total": counts.total,
            "params_active": counts.active,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        with atomic_path(path.parent / "train.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=2) + "\n")
        with atomic_path(path) as temporary:
            save(temporary)
        print(f"{path}: {counts.total:,} parameters ({counts.active:,} active), {self.steps} steps")
