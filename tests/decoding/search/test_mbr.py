"""Minimum Bayes risk and the oracle, against every sequence of words."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding import Lattice, Search, build
from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.decoding.search.lattice import WordSequence
from sigmel.decoding.search.mbr import confidences, expected_errors, oracle, sausage

BUILT = build(("<blk>", "a", "b"), 0, Lexicon({"ab": ((1, 2),), "a": ((1,),), "b": ((2,),)}))
sequences = st.lists(st.integers(1, 3), max_size=4).map(tuple)


@functools.cache
def distance(one, other):
    if not one or not other:
        return len(one) + len(other)
    same = distance(one[1:], other[1:]) + (one[0] != other[0])
    return min(same, 1 + distance(one[1:], other), 1 + distance(one, other[1:]))


@given(
    shares=st.dictionaries(sequences, st.floats(0.05, 1.0), min_size=1, max_size=5),
    reference=sequences,
)
@settings(max_examples=100, deadline=None)
def test_expected_errors_are_those_of_all_sequences(shares, reference):
    total = sum(shares.values())
    shares = {words: share / total for words, share in shares.items()}
    expected = sum(share * distance(words, reference) for words, share in shares.items())
    sequences = [WordSequence(words, math.log(share), math.log(share)) for words, share in shares.items()]
    gapped = [0, *(one for word in reference for one in (word, 0))]
    for places in (list(reference), gapped):
        risk, slots = expected_errors(sequences, places)
        assert risk == pytest.approx(expected, abs=1e-3)
        for slot in slots:
            assert sum(slot.values()) == pytest.approx(1.0, abs=1e-4)


def lattice_of(shares):
    """A lattice of sentences of the words "a" and "b" with their probabilities, each token followed by a blank."""
    src, dst, label, aux, score, final = [], [], [], [], [], [-np.inf]
    for words, share in shares.items():
        before = 0
        for at, token in enumerate(token for word in words for token in (word, 0)):
            src.append(before), dst.append(len(final)), label.append(token + 1)
            aux.append({0: 0, 1: 2, 2: 3}[token])
            score.append(0.0 if at else math.log(share))
            before = len(final)
            final.append(0.0 if at == 2 * len(words) - 1 else -np.inf)
    log_probs = np.zeros((2 * len(words), 3), np.float32)
    return Lattice.canonical(BUILT, log_probs, Graph.from_arcs(src, dst, label, aux, score, final), 99.0)


def test_fewer_errors_are_better_than_one_good_guess():
    lattice = lattice_of({(1, 2): 0.4, (2, 1): 0.3, (2, 2): 0.3})
    assert lattice.best().text == "a b"
    said = sausage(lattice)
    assert [slot.word for slot in said if slot.word] == ["b", "b"]
    assert [slot.confidence for slot in said if slot.word] == pytest.approx([0.6, 0.7], abs=1e-3)
    assert said[0].others == pytest.approx({"b": 0.6, "a": 0.4}, abs=1e-3)
    assert confidences(lattice, lattice.best()) == pytest.approx([0.4, 0.7], abs=1e-3)
    assert confidences(lattice_of({(1, 2): 1.0}), lattice.best()) == pytest.approx([1.0, 1.0])
    assert confidences(lattice_of({(2, 2): 1.0}), lattice.best()) == pytest.approx([0.0, 1.0])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_a_sausage_has_fewer_expected_errors_than_the_best_path(seed):
    logits = np.random.default_rng(seed).standard_normal((6, 3))
    log_probs = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    lattice = KaldiDecoder(BUILT, Search(beam=100.0, lattice_beam=50.0)).lattice(log_probs)
    names = lattice.source.lexicon.words
    best = [names.index(word.name) for word in lattice.best().words]
    said = [names.index(slot.word) for slot in sausage(lattice) if slot.word]
    spoken = list(lattice.sequences())
    assert expected_errors(spoken, said)[0] <= expected_errors(spoken, best)[0] + 1e-3
    for slot in sausage(lattice):
        assert sum(slot.others.values()) == pytest.approx(1.0, abs=1e-3)
        assert slot.confidence == max(slot.others.values())


@given(seed=st.integers(0, 10**6), said=st.lists(st.sampled_from(["ab", "a", "b", "x"]), max_size=4))
@settings(max_examples=15, deadline=None)
def test_the_oracle_is_the_nearest_path(seed, said):
    logits = np.random.default_rng(seed).standard_normal((5, 3))
    log_probs = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    lattice = KaldiDecoder(BUILT, Search(beam=100.0, lattice_beam=3.0)).lattice(log_probs)
    texts = [tuple(word.name for word in one.words) for one in lattice.nbest(1000)]
    assert oracle(lattice, said) == min(distance(text, tuple(said)) for text in texts)


def test_a_surer_scale_is_surer():
    logits = np.random.default_rng(1).standard_normal((6, 3))
    log_probs = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    lattice = KaldiDecoder(BUILT).lattice(log_probs)
    sure = [min(slot.confidence for slot in sausage(lattice, scale)) for scale in (0.3, 1.0, 5.0)]
    assert sure == sorted(sure)
