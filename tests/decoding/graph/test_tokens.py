"""Tokens of models, and how they spell words."""

import pytest

from sigmel.decoding.graph.tokens import characters, read_tokens
from sigmel.errors import SigmelError
from sigmel.tokens.text import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens") / "tokenizer"
    train_tokenizer(["turn on", "turn off"], folder, "char")
    return folder


@pytest.mark.parametrize("name", ["", "tokenizer.model"])
def test_pieces_have_the_blank_beyond_them(tokenizer, name):
    tokens = read_tokens(tokenizer / name)
    assert tokens.blank == len(tokens.names) - 1
    assert tokens.names[-1] == "<blk>"
    assert tokens.separator is None
    assert "".join(tokens.names[number] for number in tokens.spell("torn")) == "▁torn"
    assert tokens.spell("x") is None


def test_a_text_file_spells_by_characters(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("<blank>\n<unk>\na\nb\n<space>\n<sos/eos>\n")
    tokens = read_tokens(path)
    assert (tokens.blank, tokens.separator, tokens.spell("ba"), tokens.spell("bax")) == (0, 4, (3, 2), None)
    assert tokens.themselves().words == ("<eps>", "<unk>", "a", "b", "<space>", "<sos/eos>")
    with pytest.raises(SigmelError, match="cannot spell 'bax', 'x'"):
        tokens.lexicon(["a", "bax", "x"])


def test_a_text_file_spells_by_pieces(tmp_path, tokenizer):
    names = read_tokens(tokenizer).names[:-1]
    path = tmp_path / "tokens.txt"
    path.write_text("\n".join(["<blank>", *names, "<sos/eos>"]) + "\n")
    tokens = read_tokens(path, tokenizer / "tokenizer.model")
    assert [tokens.names[number] for number in tokens.spell("on")] == ["▁", "o", "n"]
    assert tokens.separator is None


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "it has no token"),
        ("a\nb\na\n<blk>", {}, "the token 'a' is there twice"),
        ("a\nb\n", {}, "the blank is missing or not clear: one of <blank>"),
        ("a\n<blank>\n<eps>\n", {}, "the blank is missing or not clear"),
        ("a\n<blank>\n", {"blank": "_"}, "'_' is due"),
    ],
)
def test_broken_files(tmp_path, text, options, message):
    (tmp_path / "tokens.txt").write_text(text)
    with pytest.raises(SigmelError, match=message):
        read_tokens(tmp_path / "tokens.txt", **options)


def test_a_lexicon_is_read(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("read r eh d\nread r iy d\nread r eh d\n\nreed\tr iy d\n")
    lexicon = characters(["<blk>", "r", "eh", "iy", "d"], 0).read_lexicon(path)
    assert lexicon.spellings == {"read": ((1, 2, 4), (1, 3, 4)), "reed": ((1, 3, 4),)}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no word"), ("a x\nb\n", ":2: 'b' has no tokens"), ("a x y", ":1: 'a' is spelled with 'y'")],
)
def test_broken_lexicons(tmp_path, text, message):
    path = tmp_path / "lexicon.txt"
    path.write_text(text)
    with pytest.raises(SigmelError, match=message):
        characters(["<blk>", "x"], 0).read_lexicon(path)
