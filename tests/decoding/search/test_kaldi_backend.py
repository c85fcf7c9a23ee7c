"""Kaldi's decoders against every sequence of frames, and against themselves piece by piece."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding.graph.arpa_ngrams import train_ngrams
from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.openfst import without_epsilons
from sigmel.decoding.graph.topology import TOPOLOGIES
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.decoding.search.search_width import Search
from sigmel.errors import SigmelError

TOKENS = ("<blk>", "a", "b", "c")
LEXICON = Lexicon({"ab": ((1, 2),), "a": ((1,),), "aa": ((1, 1),), "c": ((3,), (3, 2))})
GRAMMAR = parse_grammar("<x> = (/3/ ab | /1/ a | /2/ aa | /2/ c)+;")
BIGRAM = train_ngrams([["ab", "a", "c"], ["c", "aa", "ab"], ["a", "c", "c", "ab"], ["aa"]], 2)
WIDE = Search(beam=1000.0)


def frames(seed, length, num_tokens=4, spread=2.0):
    """Random log-probabilities."""
    logits = spread * np.random.default_rng(seed).standard_normal((length, num_tokens))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@given(seed=st.integers(0, 10**6), length=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_the_best_path_is_the_best_of_all(brute_force, topology, seed, length):
    built = build(TOKENS, 0, LEXICON, GRAMMAR, topology=topology)
    log_probs = frames(seed, length)
    best = -math.inf
    for tokens in itertools.product(range(4), repeat=length):
        model = float(sum(log_probs[at, token] for at, token in enumerate(tokens)))
        if model > best:  # no score of the grammar is above 0
            for score in brute_force.best_paths(built.graph, [token + 1 for token in tokens]).values():
                best = max(best, model + score)
    found = KaldiDecoder(built, WIDE).best(log_probs)
    assert found.complete == (best > -math.inf)
    if found.complete:
        assert found.score == pytest.approx(best, abs=1e-3)
        model = sum(log_probs[at, token] for at, token in enumerate(found.alignment))
        assert found.score == pytest.approx(model + found.graph_score, abs=1e-3)
        labels = [int(token) + 1 for token in found.alignment]
        said = brute_force.best_paths(built.graph, labels)
        names = {tuple(built.lexicon.words[number] for number in words): score for words, score in said.items()}
        assert names[tuple(word.name for word in found.words)] == pytest.approx(found.graph_score, abs=1e-3)


@given(seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 20), max_size=4))
@settings(max_examples=30, deadline=None)
def test_pieces_give_what_the_whole_gives(seed, cuts):
    decoder = KaldiDecoder(build(TOKENS, 0, LEXICON, GRAMMAR))
    log_probs = frames(seed, 20)
    whole = decoder.best(log_probs)
    stream = decoder.stream()
    for piece in np.split(log_probs, sorted(cuts)):
        stream.advance(piece)
    assert stream.frames == 20
    found = stream.finish()
    assert (found.words, found.score) == (whole.words, pytest.approx(whole.score, abs=1e-3))
    with pytest.raises(SigmelError, match="the stream is finished"):
        stream.advance(log_probs)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_epsilons_change_nothing_but_the_size(topology, seed):
    log_probs = frames(seed, 8)
    search = Search(beam=1000.0, lattice_beam=20.0)
    built = build(TOKENS, 0, LEXICON, BIGRAM, topology=topology)
    silent = KaldiDecoder(built, search)
    plain = KaldiDecoder(replace(built, graph=without_epsilons(built.graph)), search)
    assert np.any(silent.graph.graph.label == 0)
    one, other = plain.best(log_probs), silent.best(log_probs)
    assert (one.text, one.alignment.tolist()) == (other.text, other.alignment.tolist())
    assert (one.score, one.graph_score) == pytest.approx((other.score, other.graph_score), abs=1e-3)
    lists = [{found.text: found.score for found in each.lattice(log_probs).nbest(10)} for each in (plain, silent)]
    assert lists[0] == pytest.approx(lists[1], abs=1e-3)


def test_partial_results_end_anywhere():
    built = build(TOKENS, 0, Lexicon({"ab": ((1, 2),), "c": ((3,),)}), parse_grammar("<x> = c ab;"))
    stream = KaldiDecoder(built).stream()
    log_probs = np.full((5, 4), -9.0, np.float32)
    log_probs[range(5), [0, 3, 0, 1, 2]] = -0.01
    said = []
    for frame in log_probs:
        stream.advance(frame[None])
        found = stream.partial()
        said.append(found.text)
        assert (found.complete, found.reason, len(found.alignment)) == (False, "", stream.frames)
        assert found.score == pytest.approx(-0.01 * stream.frames, abs=1e-3)
    assert said[:2] == ["", "c"]
    assert said[-1] == "c ab"
    assert stream.finish().complete


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_times_are_those_of_the_tokens(topology):
    built = build(TOKENS, 0, LEXICON, topology=topology)
    stays = topology != "minimal"  # a token in the next frame, too
    said = [0, 3, 3 if stays else 0, 0, 1, 0, 1, 0, 2, 2 if stays else 0, 3, 0]
    log_probs = np.full((12, 4), -8.0, np.float32)
    log_probs[range(12), said] = -0.01
    found = KaldiDecoder(built, WIDE).best(log_probs)
    assert found.alignment.tolist() == said
    expected = [("c", 1, 2 + stays), ("a", 4, 5), ("a", 6, 7), ("b", 8, 9 + stays), ("c", 10, 11)]
    # Several words can be spelled so; their tokens are the same, but that a run may count for two if compact.
    assert sorted(set(found.tokens)) == sorted(expected)
    assert found.text.replace(" ", "") in ("caabc", "ccaabc")
    assert found.words[-1] == ("c", 10, 11)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("blank", [0, 2])
def test_what_has_no_end_has_no_word_that_was_not_said(topology, blank):
    """After "a" only "b" can come, and nothing speaks against it beyond the last frame."""
    a, b = (token for token in range(3) if token != blank)
    lexicon = Lexicon({"a": ((a,),), "b": ((b,),)})
    built = build(("0", "1", "2"), blank, lexicon, parse_grammar("<x> = a b;"), topology=topology)
    log_probs = np.full((2, 3), -9.0, np.float32)
    log_probs[[0, 1], [a, blank]] = -0.1
    found = KaldiDecoder(built, Search(beam=5.0, min_active=0)).best(log_probs)
    assert (found.text, found.complete) == ("a", False)
    assert found.score == pytest.approx(-0.2, abs=1e-3)


def test_a_beam_that_loses_every_end_says_so():
    built = build(TOKENS, 0, Lexicon({"ab": ((1, 2),)}), parse_grammar("<x> = ab;"))
    log_probs = np.full((3, 4), -10.0, np.float32)
    log_probs[:, 1] = -0.1
    found = KaldiDecoder(built, WIDE).best(log_probs[:1])
    assert not found.complete
    assert found.reason == "no path that is left ends where the graph may end"
    assert KaldiDecoder(built, WIDE).best(log_probs).text == "ab"
    narrow = KaldiDecoder(built, Search(beam=1.0, min_active=0)).best(log_probs)
    assert (narrow.complete, narrow.reason) == (False, "no path that is left ends where the graph may end")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x[:0], "there is no frame"),
        (lambda x: np.where(np.arange(4)[:, None] == 2, -np.inf, x), "frame 2 has .* none above -inf"),
        (lambda x: np.where(np.arange(4)[:, None] == 1, np.nan, x), "frame 1 has .* NaN"),
    ],
)
def test_frames_that_cannot_be_searched(change, reason):
    found = KaldiDecoder(build(TOKENS, 0, LEXICON)).best(change(frames(0, 4)).astype(np.float32))
    assert found.words == ()
    assert not found.complete
    assert re.search(reason, found.reason)


def test_tokens_without_probability_are_in_no_path():
    log_probs = np.full((2, 4), -np.inf, np.float32)
    log_probs[:, :2] = np.log([[0.5, 0.5], [0.9, 0.1]])
    found = KaldiDecoder(build(TOKENS, 0, LEXICON)).best(log_probs)
    assert found.score == pytest.approx(math.log(0.45), abs=1e-3)


def test_other_tokens_are_refused():
    with pytest.raises(SigmelError, match=r"shape \(4, 5\): the graph was made for 4 tokens"):
        KaldiDecoder(build(TOKENS, 0, LEXICON)).best(frames(0, 4, 5))


@pytest.mark.parametrize("name", ["beam", "lattice_beam", "max_active", "min_active"])
def test_bad_widths(name):
    with pytest.raises(SigmelError, match=name):
        Search(**{name: -1})
