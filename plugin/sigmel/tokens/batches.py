"""Batches of dMel and text to train a language model on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset, Dataset, Sampler

from sigmel.errors import SigmelError
from sigmel.flat_options import check_positive
from sigmel.tokens.archive import archives_in


class SpokenText(NamedTuple):
    """An utterance, or a batch of them.

    Attributes:
        speech: (T, C) uint8 ids; of a batch (B, T, C).
        speech_lengths: () int64 frames; of a batch (B,).
        text: (U,) int64 tokens; of a batch (B, U).
        text_lengths: () int64 tokens; of a batch (B,).
    """

    speech: Tensor
    speech_lengths: Tensor
    text: Tensor
    text_lengths: Tensor


class SpokenTexts(Dataset[SpokenText]):
    """The utterances of archives and their texts.

    Args:
        source: an archive, or a folder of them.
        tokenizer: the settings that the archives must have, `DMelTokenizer.config`.
        spell: function that gives the tokens of a text, from 0 on.

    Attributes:
        rows: of the archives.

    Raises:
        SigmelError: no archive, other settings, or an utterance without text, by name.
    """

    def __init__(self, source: Path, tokenizer: Mapping[str, Any], spell: Callable[[str], list[int]]):
        archives: list[Any] = archives_in(source, tokenizer)
        self._ids = ConcatDataset[np.ndarray](archives)
        self.rows = [row for archive in archives for row in archive.rows]
        self._spell = spell
        silent = next((row["id"] for row in self.rows if not row.get("text", "").strip()), None)
        if silent is not None or not self.rows:
            raise SigmelError(f"{source}: " + ("holds no utterance" if silent is None else f"{silent} has no text"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> SpokenText:
        """The utterance with this number, counted through all archives."""
        speech = torch.from_numpy(np.array(self._ids[number]))
        text = torch.tensor(self._spell(self.rows[number]["text"]), dtype=torch.int64)
        return SpokenText(speech, torch.tensor(len(speech)), text, torch.tensor(len(text)))


def collate(utterances: Sequence[SpokenText]) -> SpokenText:
    """Make a batch of utterances; padding is 0."""
    speech, speech_lengths, text, text_lengths = zip(*utterances, strict=True)
    return SpokenText(
        pad_sequence(list(speech), batch_first=True),
        torch.stack(speech_lengths),
        pad_sequence(list(text), batch_first=True),
        torch.stack(text_lengths),
    )


class BatchesOfLikeLength(Sampler[list[int]]):
    """Batches of utterances of similar length, with at most `max_frames` frames, padding included.

    The order of the first pass is from short to long: a model learns which text belongs to which frames more easily
    from short utterances. Later passes are shuffled.

    Args:
        lengths: frames of each utterance.
        max_frames: of a batch; a longer utterance is a batch of its own.
        seed: of the order. Default: 0.
        shuffle: False gives every pass the order of the first. Default: True.

    Attributes:
        epoch: the number of the next pass; Lightning sets this by `set_epoch`.
    """

    def __init__(self, lengths: Sequence[int], max_frames: int, seed: int = 0, shuffle: bool = True):
        check_positive(max_frames=max_frames)
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        self.batches: list[list[int]] = []
        for number in sorted(
            range(len(lengths)), key=lengths.__getitem__
        ):  # the last utterance of a batch is the longest
            if not self.batches or (len(self.batches[-1]) + 1) * lengths[number] > max_frames:
                self.batches.append([])
            self.batches[-1].append(number)

    @property
    def sampler(self) -> BatchesOfLikeLength:
        """This object: Lightning calls `set_epoch` of a batch sampler's `sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(len(self.batches)))
        if self.shuffle and self.epoch:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        self.epoch += 1
        return (self.batches[number] for number in order)
