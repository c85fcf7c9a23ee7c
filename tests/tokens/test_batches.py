"""Batches hold every utterance once, none has more frames than asked for, and texts stay with their speech."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.tokens.archive import dmel_archive_writer
from sigmel.tokens.batches import BatchesOfLikeLength, SpokenTexts, collate

CONFIG = DMelTokenizer().config


def spell(text):
    return [ord(letter) - ord("a") for letter in text]


@pytest.fixture
def archives(tmp_path):
    """Two archives; utterance n has n + 1 frames of n, and n letters more than one."""
    for shard, numbers in enumerate(([0, 1, 2], [3, 4])):
        with dmel_archive_writer(tmp_path / f"{shard}.dmel", CONFIG) as writer:
            for n in numbers:
                writer.write(f"u{n}", np.full((n + 1, 80), n, np.uint8), text="abcde"[: n + 1])
    return tmp_path


def test_utterances_of_all_archives(archives):
    texts = SpokenTexts(archives, CONFIG, spell)
    assert len(texts) == 5
    for n, utterance in enumerate(texts):
        assert utterance.speech.tolist() == [[n] * 80] * (n + 1)
        assert utterance.text.tolist() == list(range(n + 1))
    batch = collate([texts[3], texts[1]])
    assert batch.speech.shape == (2, 4, 80)
    assert batch.speech_lengths.tolist() == batch.text_lengths.tolist() == [4, 2]
    assert batch.text.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    with pytest.raises(IndexError):
        texts[5]


def test_what_cannot_be_learned_from_is_named(archives, tmp_path):
    with pytest.raises(SigmelError, match="bits 4, expected 5"):
        SpokenTexts(archives, DMelTokenizer(bits=5).config, spell)
    with dmel_archive_writer(tmp_path / "2.dmel", CONFIG) as writer:
        writer.write("mute", np.zeros((3, 80), np.uint8), text=" ")
    with pytest.raises(SigmelError, match="mute has no text"):
        SpokenTexts(archives, CONFIG, spell)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200), st.integers(0, 5))
def test_batches(lengths, most, seed):
    sampler = BatchesOfLikeLength(lengths, most, seed)
    passes = [list(sampler) for _ in range(3)]
    for batches in passes:
        assert sorted(number for batch in batches for number in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) <= 1 or len(batch) * max(lengths[number] for number in batch) <= most
    first = [lengths[number] for batch in passes[0] for number in batch]
    assert first == sorted(first)
    again = BatchesOfLikeLength(lengths, most, seed)
    again.set_epoch(2)
    assert list(again) == passes[2]


def test_later_passes_are_shuffled():
    sampler = BatchesOfLikeLength(range(1, 100), 100)
    first, second, third = (list(sampler) for _ in range(3))
    assert first != second != third
    assert len(sampler) == len(first)
    still = BatchesOfLikeLength(range(1, 100), 100, shuffle=False)
    assert list(still) == list(still) == first


def test_random_numbers_of_others_do_not_matter():
    torch.manual_seed(1)
    sampler = BatchesOfLikeLength(range(1, 50), 60, seed=3)
    sampler.set_epoch(4)
    expected = list(sampler)
    torch.manual_seed(2)
    np.random.seed(2)
    sampler.set_epoch(4)
    assert list(sampler) == expected
    with pytest.raises(SigmelError, match="max_frames: 0"):
        BatchesOfLikeLength([1], 0)
