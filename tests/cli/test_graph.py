"""`sigmel graph` from files to a decoded utterance."""

import numpy as np
import pytest
import torch

from sigmel import cli
from sigmel.decoding import DecodingGraph, GraphDecoder

TOKENS = "<blank>\na\nb\nc\n<space>\n"


@pytest.fixture
def files(tmp_path):
    """Writes files, and runs `sigmel graph` on their names."""

    def run(verb, *arguments, **contents):
        for name, text in {"tokens": TOKENS, **contents}.items():
            (tmp_path / name).write_text(text)
        words = [str(tmp_path / word) if word in {"tokens", "HLG.npz", *contents} else word for word in arguments]
        return cli.main(["graph", verb, *words]), tmp_path / "HLG.npz"

    return run


def decode(path, *labels):
    """What the graph makes of frames that are sure of their tokens."""
    log_probs = torch.full((1, len(labels), 5), -9.0)
    log_probs[0, range(len(labels)), labels] = -0.01
    (found,) = GraphDecoder(path).decode(log_probs, torch.tensor([len(labels)]))
    return found.text


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--grammar", "<x> = ab | c [ab];"),
        ("--words", "ab\nc\n"),
        (
            "--lm",
            "\\data\\\nngram 1=4\n\n\\1-grams:\n-99 <s>\n-1 </s>\n-1 ab\n-1 c\n\n\\end\\\n",
        ),
    ],
)
def test_from_files_to_words(files, capsys, option, text):
    status, path = files("build", "--tokens", "tokens", option, "source", "-o", "HLG.npz", source=text)
    assert status == 0
    assert "2 words" in capsys.readouterr().out
    assert decode(path, 3, 4, 1, 1, 0, 2) == "c ab"
    assert decode(path, 1, 1, 3) != "a c"
    assert cli.main(["graph", "info", str(path)]) == 0
    assert "<blank> (0)" in capsys.readouterr().out


def test_without_a_language_model_tokens_are_the_words(files):
    status, path = files("build", "--tokens", "tokens", "-o", "HLG.npz")
    assert status == 0
    assert decode(path, 1, 1, 0, 1, 2) == "a a b"
    assert DecodingGraph.load(path).writes_tokens


def test_a_lexicon_of_ones_own(files):
    status, path = files(
        "build", "--tokens", "tokens", "--lexicon", "lexicon", "-o", "HLG.npz", lexicon="Bach b a c\n"
    )
    assert status == 0
    assert decode(path, 2, 1, 3, 4, 2, 1, 3) == "Bach Bach"


def test_phrases(files):
    words = ("--words", "words", "--phrases", "names", "--boost", "3", "-o", "HLG.npz")
    status, path = files("build", "--tokens", "tokens", *words, words="ab\nc\n", names="c c\n")
    assert status == 0
    graph = DecodingGraph.load(path).graph
    assert graph.score.max() == pytest.approx(6.0, abs=1e-2)


def test_phrases_of_tokens(files):
    status, path = files("build", "--tokens", "tokens", "--phrases", "names", "-o", "HLG.npz", names="ab c\t4\n")
    assert status == 0
    log_probs = torch.log(torch.tensor([[[0.1, 0.8, 0.02, 0.04, 0.04], [0.1, 0.02, 0.4, 0.44, 0.04]]]))
    log_probs = torch.cat([log_probs, torch.log(torch.eye(5)[[4, 3]].clamp(min=1e-3))[None]], dim=1)
    (found,) = GraphDecoder(path).decode(log_probs, torch.tensor([4]))
    assert [token.name for token in found.tokens] == ["a", "b", "<space>", "c"]


def test_pictures(files, tmp_path):
    _, path = files("build", "--tokens", "tokens", "--words", "words", "-o", "HLG.npz", words="c")
    assert cli.main(["graph", "draw", str(path), "-o", str(tmp_path / "HLG.dot")]) == 0
    assert 'label="c:c"' in (tmp_path / "HLG.dot").read_text()


@pytest.mark.parametrize(
    ("arguments", "contents", "message"),
    [
        (("--grammar", "source"), {"source": "<x> = abx;"}, "cannot spell 'abx'"),
        (("--lexicon", "lexicon", "--words", "source"), {"lexicon": "c c", "source": "ab"}, "not in the lexicon: ab"),
        (("--words", "source"), {"source": "\n"}, "there is no word"),
        (("--phrases", "names"), {"names": "[x]\nc"}, "classes need a --grammar, an --lm or --words"),
        (
            ("--words", "source", "--phrases", "names"),
            {"source": "c", "names": "[x]\nc"},
            "does not use the class <x>",
        ),
        (("--words", "source", "--max-arcs", "3"), {"source": "ab c"}, "more than 3"),
        (("--blank", "_"), {}, "'_' is due"),
        (("--phrases", "names"), {"names": "a abx\n"}, "cannot spell 'a abx'"),
        (("--grammar", "source", "--phrases", "names"), {"source": "<x> = a;", "names": "b"}, "lacks: b"),
    ],
)
def test_bad_input_is_one_line(files, capsys, arguments, contents, message):
    status, path = files("build", "--tokens", "tokens", *arguments, "-o", "HLG.npz", **contents)
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not path.exists()


def test_the_output_is_a_graph_file(files, capsys, tmp_path):
    assert files("build", "--tokens", "tokens", "-o", str(tmp_path / "HLG.pt"))[0] == 2
    assert "ends in .npz" in capsys.readouterr().err
    assert np.all([path.suffix != ".pt" for path in tmp_path.iterdir()])
