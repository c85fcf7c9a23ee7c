"""Lattices and what is read from them, against every sequence of frames."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.decoding.search.search_width import Search

TOKENS = ("<blk>", "a", "b")
LEXICON = Lexicon({"ab": ((1, 2),), "a": ((1,),), "b": ((2,),)})
BUILT = build(TOKENS, 0, LEXICON, parse_grammar("<x> = (/3/ ab | /1/ a | /2/ b)+;"))


def frames(seed, length, spread=1.5):
    logits = spread * np.random.default_rng(seed).standard_normal((length, 3))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def every_path(brute_force, log_probs):
    """words -> alignment -> scores of all paths."""
    found = {}
    for tokens in itertools.product(range(3), repeat=len(log_probs)):
        model = float(sum(log_probs[at, token] for at, token in enumerate(tokens)))
        for words, score in brute_force.paths(BUILT.graph, [token + 1 for token in tokens]):
            found.setdefault(words, {}).setdefault(tokens, []).append(model + score)
    return found


def total(scores):
    return math.log(sum(math.exp(score) for score in scores))


@given(seed=st.integers(0, 10**6), length=st.integers(2, 5), beam=st.sampled_from([0.5, 2.0, 100.0]))
@settings(max_examples=30, deadline=None)
def test_a_lattice_has_the_paths_within_its_beam(brute_force, seed, length, beam):
    log_probs = frames(seed, length)
    expected = every_path(brute_force, log_probs)
    best = max(score for paths in expected.values() for scores in paths.values() for score in scores)
    lattice = KaldiDecoder(BUILT, Search(beam=200.0, lattice_beam=beam)).lattice(log_probs)
    within = 0
    for words, paths in expected.items():
        for tokens, scores in paths.items():
            labels = [token + 1 for token in tokens]
            found = [score for said, score in brute_force.paths(lattice.paths, labels) if said == words]
            for score in scores:
                if score > best - beam + 1e-3:
                    within += 1
                    assert min(abs(score - other) for other in found) < 1e-3
    # An arc stays only for a path within the beam.
    through = lattice.forward()[lattice.paths.src] + lattice.paths.score
    through += lattice.backward()[lattice.paths.dst]
    assert np.all(through >= best - beam - 1e-3)
    assert within


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_n_best_are_the_best_different_sequences(brute_force, seed):
    log_probs = frames(seed, 4)
    lattice = KaldiDecoder(BUILT, Search(beam=200.0, lattice_beam=100.0)).lattice(log_probs)
    expected = {
        " ".join(BUILT.lexicon.words[number] for number in words): max(max(scores) for scores in paths.values())
        for words, paths in every_path(brute_force, log_probs).items()
    }
    found = lattice.nbest(len(expected) + 5)
    assert {one.text: one.score for one in found} == pytest.approx(expected, abs=2e-3)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert [one.text for one in lattice.nbest(2)] == [one.text for one in found[:2]]
    best = KaldiDecoder(BUILT, Search(beam=200.0)).best(log_probs)
    assert (best.text, best.score) == (found[0].text, pytest.approx(found[0].score, abs=1e-3))
    assert best.graph_score == pytest.approx(lattice.best().graph_score, abs=1e-3)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_sequences_know_the_sum_over_their_paths(brute_force, seed):
    log_probs = frames(seed, 4)
    lattice = KaldiDecoder(BUILT, Search(beam=200.0, lattice_beam=100.0)).lattice(log_probs)
    expected = {
        words: total([score for scores in paths.values() for score in scores])
        for words, paths in every_path(brute_force, log_probs).items()
    }
    assert {found.words: found.total for found in lattice.sequences()} == pytest.approx(expected, abs=2e-3)


def test_long_lattices_of_much_that_is_possible_take_no_longer():
    lattice = KaldiDecoder(BUILT, Search(beam=30.0, lattice_beam=12.0)).lattice(frames(0, 300, spread=0.3))
    found = lattice.nbest(5)
    assert len({one.text for one in found}) == 5
    assert found[0].score == pytest.approx(lattice.best().score, abs=1e-3)


def test_an_utterance_without_an_end_gives_what_there_is():
    built = build(TOKENS, 0, Lexicon({"ab": ((1, 2),)}), parse_grammar("<x> = ab;"))
    lattice = KaldiDecoder(built).lattice(frames(0, 1))
    assert not lattice.complete
    assert not lattice.best().complete
    assert KaldiDecoder(built).lattice(frames(0, 0)).reason == "there is no frame"
