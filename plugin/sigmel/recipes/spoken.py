"""What saying the texts of a manifest leaves behind, for recognisers and listeners; the same from every host."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import write_wav
from sigmel.files.manifest import Utterance, write_manifest


def write_spoken(
    output: Path, texts: Sequence[Utterance], sounds: Iterable[tuple[int, np.ndarray]], sample_rate: int
) -> str:
    """Write ``wav/`` and a manifest named after the folder: ``spoken/spoken.jsonl``.

    Args:
        output: folder to make; it must not exist yet.
        texts: of a manifest, whose own sound does not matter.
        sounds: the number of a text and its (samples,), in any order.
        sample_rate: Hz.

    Returns:
        A line about it.
    """
    made: dict[int, Utterance] = {}
    began = time.monotonic()
    with atomic_dir(output) as folder:
        (folder / "wav").mkdir()
        for number, samples in tqdm(sounds, "spoken", len(texts), mininterval=1.0):
            file, text = f"wav/{number:05}.wav", texts[number]
            write_wav(folder / file, samples, sample_rate)
            made[number] = Utterance(text.id, file, len(samples) / sample_rate, text.text, text.speaker)
        write_manifest(folder / f"{output.name}.jsonl", (made[number] for number in range(len(texts))))
    seconds, spoken = time.monotonic() - began, sum(utterance.duration for utterance in made.values())
    return f"{output}: {len(made)} texts, {spoken:.0f} s of speech, {spoken / seconds:.1f} x real time"
