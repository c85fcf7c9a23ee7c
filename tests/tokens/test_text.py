"""Tokenizers cover their text, adapt to little of it, and are whole or absent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.files.manifest import Utterance, write_manifest
from sigmel.tokens.text import TYPES, load_tokenizer, train_tokenizer, uncovered

TEXTS = ["one two three", "four five six", "seven eight nine ten", "two two"] * 5


@pytest.mark.parametrize("model_type", TYPES)
def test_every_text_is_covered_and_comes_back(tmp_path, model_type):
    size = train_tokenizer(TEXTS, tmp_path / "tokenizer", model_type, vocab_size=30)
    processor = load_tokenizer(tmp_path / "tokenizer")
    assert size == processor.get_piece_size()
    for text in TEXTS:
        assert not uncovered(processor, text)
        assert processor.decode(processor.encode(text)) == text
    # NeMo reads the pieces, all but <unk>, from a file of its own
    assert len((tmp_path / "tokenizer/vocab.txt").read_text().splitlines()) == size - 1


@given(st.lists(st.text("abcé ", min_size=1, max_size=9), min_size=1, max_size=9).filter(lambda t: "".join(t).strip()))
@settings(max_examples=15, deadline=None)
def test_any_text_is_covered(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("any") / "tokenizer"
    train_tokenizer(texts, folder, "bpe", vocab_size=20)
    processor = load_tokenizer(folder)
    assert not any(uncovered(processor, text) for text in texts if text.strip())


def test_what_the_text_does_not_hold_is_named(tmp_path):
    train_tokenizer(TEXTS, tmp_path / "tokenizer", "char")
    processor = load_tokenizer(tmp_path / "tokenizer")
    assert uncovered(processor, "two ÿ") == ["ÿ"]


def test_a_vocabulary_larger_than_the_text_allows_shrinks(tmp_path):
    assert train_tokenizer(TEXTS, tmp_path / "tokenizer", "bpe", vocab_size=5000) < 100


@pytest.mark.parametrize(
    ("texts", "model_type", "size", "message"),
    [
        ([], "bpe", 30, "no text"),
        ([" "], "bpe", 30, "no text"),
        (TEXTS, "bpe", 5, "take at least 16"),
        (TEXTS, "bytes", 30, "'bytes' is unknown"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(tmp_path, texts, model_type, size, message):
    with pytest.raises(SigmelError, match=message):
        train_tokenizer(texts, tmp_path / "tokenizer", model_type, size)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_foreign_model_is_named(tmp_path):
    with pytest.raises(SigmelError, match=r"tokenizer\.model: no such file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_text("nothing of the kind")
    with pytest.raises(SigmelError, match=r"tokenizer\.model: not a SentencePiece model"):
        load_tokenizer(tmp_path)


def test_the_command_reads_manifests(tmp_path, capsys):
    utterances = [Utterance(str(n), "a.wav", 1.0, text) for n, text in enumerate(TEXTS)]
    write_manifest(tmp_path / "train.jsonl", utterances)
    options = ["--output", str(tmp_path / "tokenizer"), "--type", "word"]
    assert main(["tokenizer", str(tmp_path / "train.jsonl"), *options]) == 0
    assert "11 pieces (word) from 20 transcripts" in capsys.readouterr().out
