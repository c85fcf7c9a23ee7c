"""Rescoring, against the language model itself."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding import Search, build
from sigmel.decoding.graph.arpa_ngrams import train_ngrams
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search.graph_decoder import GraphDecoder
from sigmel.decoding.search.hypothesis import empty
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.decoding.search.rescoring import LatticeRescorer, rescored_nbest
from sigmel.errors import SigmelError

LEXICON = Lexicon({"ab": ((1, 2),), "a": ((1,),), "b": ((2,),)})
UNIGRAM = train_ngrams([["ab", "a", "b", "b"]], 1)
MODEL = train_ngrams([["ab", "a"], ["ab", "ab"], ["b"], ["ab", "a", "a"]], 2)
DECODER = KaldiDecoder(build(("<blk>", "a", "b"), 0, LEXICON, UNIGRAM), Search(beam=100.0, lattice_beam=60.0))


@pytest.fixture
def lattice(request):
    return _lattice(0)


def _lattice(seed):
    logits = np.random.default_rng(seed).standard_normal((5, 3))
    return DECODER.lattice((logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32))


def language(texts):
    return map(MODEL.score_sentence, texts)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([0.5, 1.0, 2.0]), keep=st.sampled_from([0.0, 0.5]))
@settings(max_examples=20, deadline=None)
def test_lists_and_lattices_agree(seed, scale, keep):
    lattice = _lattice(seed)
    nbest = rescored_nbest(lattice.nbest(1000), language, scale, keep)
    assert [one.score for one in nbest] == sorted((one.score for one in nbest), reverse=True)
    for one in nbest[:3]:
        model = sum(lattice.log_probs[at, token] for at, token in enumerate(one.alignment))
        words = [word.name for word in one.words]
        expected = model + scale * MODEL.score_sentence(words) + keep * UNIGRAM.score_sentence(words)
        assert one.score == pytest.approx(expected, abs=5e-3)
    # Some sequences end up better in a lattice, where backing off is a path like any other.
    again = LatticeRescorer(MODEL, DECODER.graph.lexicon.words, scale, keep)(lattice, 60.0)
    whole = {one.text: one.score for one in again.nbest(1000)}
    assert whole.keys() == {one.text for one in nbest}
    for one in nbest:
        assert whole[one.text] >= one.score - 1e-2
    backs_off = [one for one in nbest if whole[one.text] > one.score + 1e-2]
    assert len(backs_off) < len(nbest)


def test_a_neural_model_gets_all_sentences_at_once(lattice):
    seen = []

    def scores(texts):
        seen.append(texts)
        return [float(len(text)) for text in texts]

    found = rescored_nbest(lattice.nbest(5), scores, scale=100.0)
    assert len(seen) == 1
    assert [len(one.words) for one in found] == sorted((len(text) for text in seen[0]), reverse=True)
    with pytest.raises(SigmelError, match="gave 0 scores for"):
        rescored_nbest(lattice.nbest(5), lambda texts: [])


def test_a_decoder_rescores_what_it_finds():
    generator = torch.Generator().manual_seed(1)
    log_probs, lengths = torch.randn(3, 6, 3, generator=generator).log_softmax(-1), torch.tensor([6, 4, 0])
    search = Search(beam=100.0, lattice_beam=60.0)
    plain = GraphDecoder(DECODER.graph, "kaldi", search)
    rescorer = LatticeRescorer(MODEL, DECODER.graph.lexicon.words, 3.0)
    found = GraphDecoder(DECODER.graph, "kaldi", search, MODEL, 3.0).decode(log_probs, lengths)
    lattices = plain.lattices(log_probs, lengths)[:2]
    assert [one.text for one in found[:2]] == [rescorer(one, 60.0).best().text for one in lattices]
    assert [one.text for one in found] != [one.text for one in plain.decode(log_probs, lengths)]
    assert found[2].reason


def test_a_model_that_lacks_words_is_refused():
    with pytest.raises(SigmelError, match="lacks 1 words of the graph: c"):
        LatticeRescorer(MODEL, ("<eps>", "a", "c"))


def test_a_hypothesis_without_a_path_stays_and_comes_last(lattice):
    (best,) = lattice.nbest(1)
    found = rescored_nbest([empty("there is no frame"), best], language)
    assert [path.text for path in found] == [best.text, ""]
    assert (found[1].score, found[1].reason) == (-np.inf, "there is no frame")
