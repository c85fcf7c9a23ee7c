"""Audio of manifest rows, read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from sigmel.errors import SigmelError
from sigmel.files.audio import read_audio
from sigmel.files.manifest import Row

SHORTEST = 0.1  # seconds: shorter audio holds no word, and front ends fail at it in different ways


def read_batches(
    rows: Sequence[Row], sample_rate: int, batch_size: int, skipped: list[Row]
) -> Iterator[tuple[list[Row], list[np.ndarray]]]:
    """Read the audio of manifest rows, in their order.

    Args:
        rows: manifest rows.
        sample_rate: Hz, to which audio is resampled.
        batch_size: rows a batch.
        skipped: receives the rows without usable audio, each with its `reason`.

    Yields:
        Up to `batch_size` rows, and the float32 waveform (samples,) of each.
    """

    def usable() -> Iterator[tuple[Row, np.ndarray]]:
        for row in rows:
            try:
                samples, _ = read_audio(row["audio_filepath"], sample_rate)
                if len(samples) < SHORTEST * sample_rate:
                    needed = f"{len(samples)} samples are too few; need {int(SHORTEST * sample_rate)}"
                    raise SigmelError(f"{row['audio_filepath']}: {needed}")
            except (SigmelError, OSError) as error:
                skipped.append(row | {"reason": str(error)})
            else:
                yield row, samples

    reader = usable()
    while batch := list(islice(reader, batch_size)):
        yield [row for row, _ in batch], [samples for _, samples in batch]
