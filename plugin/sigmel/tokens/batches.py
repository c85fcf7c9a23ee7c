"""Batches of dMel and text to train a language model on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from sigmel.errors import SigmelError
from sigmel.tokens.archive import archives_in


class SpokenText(NamedTuple):
    """An utterance, or a batch of them.

    Attributes:
        speech: (T, C) uint8 ids; of a batch (B, T, C).
        speech_lengths: of a batch (B,) int64, else a number; so is text_lengths.
        text: (U,) int64 tokens; of a batch (B, U).
    """

    speech: Tensor
    speech_lengths: Tensor
    text: Tensor
    text_lengths: Tensor


class SpokenTexts(Dataset[SpokenText]):
    """The utterances of archives and their texts.

    Args:
        source: an archive, or a folder of them.
        tokenizer: settings of the dMel that they must have, `DMelTokenizer.config`.
        spell: tokens of a text, from 0 on.

    Attributes:
        rows: of the archives.

    Raises:
        SigmelError: no archive, other settings, or an utterance without text, by name.
    """

    def __init__(self, source: Path, tokenizer: Mapping[str, Any], spell: Callable[[str], list[int]]):
        self._archives = archives_in(source, tokenizer)
        self._ends = list(accumulate(len(archive) for archive in self._archives))
        self.rows = [row for archive in self._archives for row in archive.rows]
        self._spell = spell
        silent = next((row["id"] for row in self.rows if not row.get("text", "").strip()), None)
        if silent is not None or not self.rows:
            raise SigmelError(f"{source}: " + ("holds no utterance" if silent is None else f"{silent} has no text"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> SpokenText:
        """The utterance of this number, counted through all archives."""
        archive = bisect_right(self._ends, number)
        first = self._ends[archive - 1] if archive else 0
        speech = torch.from_numpy(np.array(self._archives[archive][number - first]))
        text = torch.tensor(self._spell(self.rows[number]["text"]), dtype=torch.int64)
        return SpokenText(speech, torch.tensor(len(speech)), text, torch.tensor(len(text)))


def collate(utterances: Sequence[SpokenText]) -> SpokenText:
    """A batch; what is padded is 0."""
    speech, speech_lengths, text, text_lengths = zip(*utterances, strict=True)
    return SpokenText(
        pad_sequence(list(speech), batch_first=True),
        torch.stack(speech_lengths),
        pad_sequence(list(text), batch_first=True),
        torch.stack(text_lengths),
    )


class BatchesOfLikeLength(Sampler[list[int]]):
    """Batches whose utterances are about as long as each other, with at most so many frames, padding included.

    The order of the first pass is from short to long: a model that has to find out what belongs to what finds it where
    there is little to choose from. Later passes are shuffled.

    Args:
        lengths: frames of each utterance.
        max_frames: of a batch; a longer utterance is a batch of its own.
        seed: of the order; with the same one it is the same.
        shuffle: False gives every pass the order of the first.

    Attributes:
        epoch: the pass that comes next; Lightning sets it by `set_epoch`.
    """

    def __init__(self, lengths: Sequence[int], max_frames: int, seed: int = 0, shuffle: bool = True):
        if max_frames < 1:
            raise SigmelError(f"max_frames: {max_frames} must be at least 1")
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        self.batches: list[list[int]] = []
        for number in sorted(range(len(lengths)), key=lengths.__getitem__):  # the last one of a batch is its longest
            if not self.batches or (len(self.batches[-1]) + 1) * lengths[number] > max_frames:
                self.batches.append([])
            self.batches[-1].append(number)

    @property
    def sampler(self) -> BatchesOfLikeLength:
        """Itself: it is here that Lightning looks for what it tells the epoch to."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self.batches)))
        if self.shuffle and self.epoch:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        self.epoch += 1
        return (self.batches[number] for number in order)
