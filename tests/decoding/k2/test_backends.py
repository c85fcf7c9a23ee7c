"""Both backends give the same words, alignments, scores and lattices."""

import itertools

import k2
import numpy as np
import pytest
import torch

from sigmel.decoding.graph.arpa_ngrams import train_ngrams
from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.topology import TOPOLOGIES
from sigmel.decoding.search.graph_decoder import GraphDecoder
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.search_width import Search

TOKENS = ("<blk>", *"abcdefgh")
WORDS = ["abc", "ab", "ba", "cab", "d", "dead", "egg", "face", "head", "hedge", "fag", "gab"]
LEXICON = Lexicon({word: (tuple(TOKENS.index(letter) for letter in word),) for word in WORDS})
WIDE = Search(beam=60.0, lattice_beam=6.0, max_active=100_000)


def sentences(seed, count=60):
    random = np.random.default_rng(seed)
    return [random.choice(WORDS, random.integers(1, 6)).tolist() for _ in range(count)]


LANGUAGES = {
    "any words": None,
    "grammar": parse_grammar("<x> = (ab | ba | dead [head])+ [/2/ egg | /1/ face];"),
    "bigram": train_ngrams(sentences(0), 2),
    "trigram": train_ngrams(sentences(1), 3),
}


def random_batch(seed, frames=40):
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(4, frames, len(TOKENS), generator=generator)).log_softmax(-1)
    return log_probs, torch.tensor([frames, frames - 13, 1, frames - 7])


@pytest.fixture
def calls(monkeypatch):
    """How often k2's search ran."""
    count = []
    search = k2.intersect_dense_pruned

    def counted(*args, **options):
        count.append(1)
        return search(*args, **options)

    monkeypatch.setattr(k2, "intersect_dense_pruned", counted)
    return count


def arcs(lattice):
    """Frame, label, word and score of each arc, and whether it is far from the threshold."""
    paths = lattice.paths
    through = lattice.forward()[paths.src] + paths.score + lattice.backward()[paths.dst]
    inside = through > through.max() - WIDE.lattice_beam + 1e-2
    rows = zip(lattice.frame[paths.src], paths.label, paths.aux, paths.score.round(2), strict=True)
    return sorted(row for row, far in zip(rows, inside, strict=True) if far)


# Compact, "d d" and "d" are read from the same frames: without a language model either is right.
CASES = [case for case in itertools.product(LANGUAGES, TOPOLOGIES) if case != ("any words", "compact")]


@pytest.mark.parametrize(("language", "topology"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_paths_and_lattices_are_equal(calls, language, topology, seed):
    built = build(TOKENS, 0, LEXICON, LANGUAGES[language], topology=topology)
    log_probs, lengths = random_batch(seed)
    ours, theirs = (GraphDecoder(built, backend, WIDE) for backend in ("kaldi", "k2"))
    for one, other in zip(ours.decode(log_probs, lengths), theirs.decode(log_probs, lengths), strict=True):
        assert (one.complete, one.reason) == (other.complete, other.reason)
        assert one.words == other.words
        assert one.alignment.tolist() == other.alignment.tolist()
        assert one.score == pytest.approx(other.score, abs=1e-3)
        assert one.graph_score == pytest.approx(other.graph_score, abs=1e-3)
    for one, other in zip(ours.lattices(log_probs, lengths), theirs.lattices(log_probs, lengths), strict=True):
        assert isinstance(one, Lattice)
        mine, its = arcs(one), arcs(other)
        assert [row[:3] for row in mine] == [row[:3] for row in its]
        assert np.allclose([row[3] for row in mine], [row[3] for row in its], atol=2e-2)
        assert [found.text for found in one.nbest(5)] == [found.text for found in other.nbest(5)]
    assert calls


def test_k2_really_runs(calls):
    built = build(TOKENS, 0, LEXICON)
    GraphDecoder(built, "k2").decode(*random_batch(0))
    assert len(calls) == 1


def test_frames_that_cannot_be_searched_are_told_alike():
    built = build(TOKENS, 0, LEXICON)
    log_probs, lengths = random_batch(3)
    log_probs[1, 2] = float("nan")
    lengths[3] = 0
    ours, theirs = (GraphDecoder(built, backend, WIDE).decode(log_probs, lengths) for backend in ("kaldi", "k2"))
    assert [one.reason for one in ours] == [one.reason for one in theirs]
    assert [bool(one.reason) for one in theirs] == [False, True, False, True]
