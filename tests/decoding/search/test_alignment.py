"""Forced alignment, against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.tokens import characters
from sigmel.decoding.search.alignment import align, confidence, ctm_lines, write_textgrid
from sigmel.decoding.search.hypothesis import Segment
from sigmel.errors import SigmelError

TOKENS = ("<blk>", "a", "b", "c")
MODEL = characters(TOKENS, 0)
LEXICON = Lexicon({"ab": ((1, 2),), "aa": ((1, 1),), "c": ((3,), (2, 3))})


def frames(seed, length):
    return torch.randn(length, 4, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


@given(seed=st.integers(0, 10**6), words=st.lists(st.sampled_from(["ab", "aa"]), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_it_is_the_most_probable_one(seed, words):
    log_probs = frames(seed, 30)
    found = align(log_probs.numpy(), words, MODEL, LEXICON)
    spelled = [token for word in words for token in LEXICON.spellings[word][0]]
    # The definition: the best way through blanks and tokens (Graves 2006, figure 3).
    states = [0, *(one for token in spelled for one in (token, 0))]
    best = np.full(len(states), -np.inf)
    best[:2] = log_probs[0, states[:2]].numpy()
    for at in range(1, 30):
        before = best.copy()
        for state in range(len(states)):
            ways = [before[state]] + ([before[state - 1]] if state else [])
            if state > 1 and states[state] not in (0, states[state - 2]):
                ways.append(before[state - 2])
            best[state] = max(ways) + log_probs[at, states[state]]
    assert found.complete
    assert found.score == pytest.approx(best[-2:].max(), abs=1e-3)
    assert [word.name for word in found.words] == words
    assert [TOKENS.index(token.name) for token in found.tokens] == spelled
    for word, after in zip(found.words, found.words[1:], strict=False):
        assert word.start < word.end <= after.start


def test_the_better_spelling_is_chosen():
    log_probs = torch.full((4, 4), -5.0)
    log_probs[range(4), [0, 2, 3, 0]] = -0.1
    found = align(log_probs.numpy(), ["c"], MODEL, LEXICON)
    assert [token.name for token in found.tokens] == ["b", "c"]
    assert found.words == (Segment("c", 1, 3),)
    assert confidence(found, found.words[0], log_probs.numpy()) == pytest.approx(np.exp(-0.1))


def test_too_few_frames():
    found = align(frames(0, 2).numpy(), ["ab", "ab"], MODEL, LEXICON)
    assert (found.complete, found.reason) == (False, "no path that is left ends where the graph may end")
    with pytest.raises(SigmelError, match="not in the lexicon: x"):
        align(frames(0, 2).numpy(), ["x"], MODEL, LEXICON)


def test_files(tmp_path):
    words = [Segment("say", 1, 3), Segment('"a"', 3, 4), Segment("b", 6, 8)]
    assert ctm_lines("u1", words[::2], 0.04, [0.5, 1.0]) == ["u1 1 0.040 0.080 say 0.500", "u1 1 0.240 0.080 b 1.000"]
    write_textgrid(tmp_path / "u1.TextGrid", {"words": words, "none": []}, 0.5, 8)
    text = (tmp_path / "u1.TextGrid").read_text()
    intervals = [line.partition("=")[2].strip() for line in text.splitlines() if "text =" in line]
    assert intervals == ['""', '"say"', '"""a"""', '""', '"b"', '""']
    times = [float(line.partition("=")[2]) for line in text.splitlines() if line.strip().startswith("xmax =")]
    assert times == [4.0, 4.0, 0.5, 1.5, 2.0, 3.0, 4.0, 4.0, 4.0]
