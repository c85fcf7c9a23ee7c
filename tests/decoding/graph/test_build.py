"""LG and HLG: what they write for what they read, against the lexicon and the language model themselves."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding.graph.arpa_ngrams import NGramModel
from sigmel.decoding.graph.build import DecodingGraph, build, build_lg
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.language_models import AnyWords, ClassModel
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.openfst import without_epsilons
from sigmel.decoding.graph.phrases import Phrase, Phrases
from sigmel.errors import SigmelError

TOKENS = ("a", "b", "c", "<blk>")
# Two words that sound alike, one that begins like another, one with two spellings.
LEXICON = Lexicon({"ab": ((0, 1),), "AB": ((0, 1),), "a": ((0,),), "aba": ((0, 1, 0),), "c": ((2,), (2, 2))})
BIGRAM = NGramModel(
    (
        {
            ("<s>",): (-math.inf, -0.25),
            ("</s>",): (-1.5, 0.0),
            ("ab",): (-1.0, -0.5),
            ("AB",): (-2.0, 0.0),
            ("a",): (-1.25, -0.75),
            ("c",): (-3.0, 0.0),
        },
        {("<s>", "ab"): (-0.5, 0.0), ("ab", "a"): (-0.25, 0.0), ("a", "</s>"): (-0.125, 0.0)},
    )
)


def spelled(lexicon, words):
    """Every sequence of labels that spells words."""
    between = () if lexicon.separator is None else (lexicon.separator + 1,)
    for spellings in itertools.product(*(lexicon.spellings[word] for word in words)):
        labels = ()
        for spelling in spellings:
            labels += (between if labels else ()) + tuple(token + 1 for token in spelling)
        yield labels


def sentences(words, most=3):
    """All sentences of few words."""
    return [said for length in range(most + 1) for said in itertools.product(words, repeat=length)]


def expected_of(lexicon, score, most=3):
    """labels -> written words -> score, by trying every sentence."""
    found = {}
    for words in sentences(lexicon.spellings, most):
        for labels in spelled(lexicon, words):
            if len(labels) <= most and score(words) > -math.inf:
                found.setdefault(labels, {})[words] = score(words)
    return found


def check(brute_force, lg, lexicon, score, most=3):
    expected = expected_of(lexicon, score, most)
    tokens = sorted(set(lg.label.tolist()) - {0})
    for length in range(most + 1):
        for labels in itertools.product(tokens, repeat=length):
            found = brute_force.best_paths(lg, labels)
            found = {tuple(lexicon.words[number] for number in written): value for written, value in found.items()}
            assert found == pytest.approx(expected.get(labels, {}), abs=2e-3)  # what minimisation rounds to


def test_any_words(brute_force):
    lg, lexicon = build_lg(4, LEXICON)
    check(brute_force, lg, lexicon, lambda words: 0.0)


def test_a_separator_between_words(brute_force):
    lexicon = Lexicon({"a": ((0,),), "ab": ((0, 1),)}, separator=2)
    lg, lexicon = build_lg(4, lexicon)
    found = brute_force.best_paths(lg, [1, 3, 1])
    assert found == {(1, 1): 0.0}
    assert not brute_force.best_paths(lg, [1, 1])


def test_a_bigram_backs_off_as_the_model_does(brute_force):
    lg, lexicon = build_lg(4, LEXICON, BIGRAM)
    assert lexicon.words == ("<eps>", "ab", "AB", "a", "c")

    # Backing off is a path like any other, so the better one counts, even where the bigram is there.
    def score(words):
        return _best(BIGRAM, words)

    assert np.any(lg.label == 0)
    check(brute_force, lg, lexicon, score)
    plain = without_epsilons(lg)
    assert np.all(plain.label > 0)
    check(brute_force, plain, lexicon, score)
    with pytest.raises(SigmelError, match=r"removing epsilons would make up to \d+ arcs, more than 5; .* kaldi"):
        without_epsilons(lg, max_arcs=5)


def _best(model, words):
    """The best score of a sentence where each word may also back off."""
    best = {("<s>",): 0.0}
    for word in [*words, "</s>"]:
        after = {}
        for history, score in best.items():
            ways = [(history, score)]
            if history:
                ways.append(((), score + model.ngrams[0].get(history, (0, 0))[1]))
            for context, sofar in ways:
                found = model.ngrams[len(context)].get((*context, word))
                if found and found[0] > -math.inf:
                    state = (word,) if (word,) in model.ngrams[0] else ()
                    after[state] = max(sofar + found[0], after.get(state, -math.inf))
        best = after
    return max(best.values(), default=-math.inf)


def test_a_grammar(brute_force):
    grammar = parse_grammar("public <x> = ab [c] | (a | /* no */ AB)+ ;")
    lg, lexicon = build_lg(4, LEXICON, grammar)
    allowed = {("ab",), ("ab", "c"), *(said for said in sentences(("a", "AB")) if said)}
    check(brute_force, lg, lexicon, lambda words: 0.0 if words in allowed else -math.inf)


def test_weights_of_a_grammar_are_shares(brute_force):
    lg, _ = build_lg(4, LEXICON, parse_grammar("<x> = /3/ a | /1/ c;"))
    assert brute_force.best_paths(lg, [1]) == {(1,): pytest.approx(math.log(0.75), abs=1e-3)}
    assert brute_force.best_paths(lg, [3]) == {(2,): pytest.approx(math.log(0.25), abs=1e-3)}


@given(
    phrases=st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(tuple), max_size=4),
    boost=st.sampled_from([0.5, 2.0]),
)
@settings(max_examples=25, deadline=None)
def test_phrases_gain_their_boosts_wherever_they_are_said(brute_force, phrases, boost):
    lexicon = Lexicon({"a": ((0,),), "b": ((1,),), "c": ((2,),)})
    listened = Phrases(tuple(Phrase(words, boost) for words in phrases), {})

    def score(words):
        best = [0.0] + [-math.inf] * len(words)
        for at in range(len(words)):
            best[at + 1] = max(best[at + 1], best[at])
            for phrase in phrases:
                if words[at : at + len(phrase)] == phrase:
                    best[at + len(phrase)] = max(best[at + len(phrase)], best[at] + boost * len(phrase))
        return best[-1]

    lg, found = build_lg(4, lexicon, phrases=listened)
    check(brute_force, lg, found, score)


def test_a_class_is_a_rule_of_the_grammar(brute_force):
    phrases = Phrases((), {"name": (Phrase(("ab",), 0.5), Phrase(("a", "c"), 0.0))})
    grammar = parse_grammar("<x> = c <name>;", classes=phrases.rules())
    lg, lexicon = build_lg(4, LEXICON, grammar)
    found = brute_force.best_paths(lg, [3, 1, 2])
    assert found == {tuple(map(lexicon.words.index, ("c", "ab"))): pytest.approx(0.5 - math.log(2), abs=1e-3)}


CLASSES = {"name": (Phrase(("ab",), 0.5), Phrase(("a", "c"), 0.0))}
CLASS_BIGRAM = NGramModel(
    (
        {
            ("<s>",): (-math.inf, -0.25),
            ("</s>",): (-1.5, 0.0),
            ("a",): (-1.0, -0.5),
            ("c",): (-2.0, 0.0),
            ("<name>",): (-1.25, -0.75),
        },
        {("<s>", "a"): (-0.5, 0.0), ("<name>", "c"): (-0.25, 0.0), ("c", "<name>"): (-0.125, 0.0)},
    )
)


def test_a_class_is_a_word_of_a_language_model(brute_force):
    """Some sentences have several readings: "a c" may be a name or two words."""
    language = ClassModel(CLASS_BIGRAM, CLASSES)
    assert language.words == ["a", "c", "ab"]
    share = {phrase.words: phrase.boost * len(phrase.words) - math.log(2) for phrase in CLASSES["name"]}

    def readings(words):
        if not words:
            yield (), 0.0
        for length in (1, 2):
            first = words[:length]
            for rest, score in readings(words[length:]) if len(first) == length else ():
                if first in share:
                    yield ("<name>", *rest), score + share[first]
                if length == 1:
                    yield (*first, *rest), score

    def score(words):
        return max(_best(CLASS_BIGRAM, reading) + extra for reading, extra in readings(words))

    lg, lexicon = build_lg(4, LEXICON, language)
    check(brute_force, lg, lexicon, score)
    biased, _ = build_lg(4, LEXICON, language, Phrases((Phrase(("c",), 1.0),), {}))
    check(brute_force, biased, lexicon, lambda words: score(words) + words.count("c"))
    words = ClassModel(AnyWords(["c", "<name>"]), CLASSES)
    found = brute_force.best_paths(build_lg(4, LEXICON, words)[0], [1, 2])
    assert list(found.values()) == [pytest.approx(share["ab",], abs=1e-3)]
    with pytest.raises(SigmelError, match="does not use the class <name>"):
        ClassModel(BIGRAM, CLASSES)


def test_a_language_model_is_weighed(brute_force):
    lg, lexicon = build_lg(4, LEXICON, BIGRAM, lm_scale=0.5, word_score=-1.5)
    check(brute_force, lg, lexicon, lambda words: 0.5 * _best(BIGRAM, words) - 1.5 * len(words))
    lg, lexicon = build_lg(4, LEXICON, BIGRAM, lm_scale=0.0)
    check(brute_force, lg, lexicon, lambda words: 0.0)
    for options in ({"lm_scale": -1.0}, {"word_score": math.nan}):
        with pytest.raises(SigmelError, match="lm_scale at least 0"):
            build_lg(4, LEXICON, BIGRAM, **options)


def test_words_that_the_lexicon_lacks_are_named():
    with pytest.raises(SigmelError, match="2 words of the language model are not in the lexicon: x, y"):
        build_lg(4, LEXICON, AnyWords(["a", "x", "y"]))


def test_a_size_limit_is_told_before_anything_is_made():
    with pytest.raises(SigmelError, match="spelling out the language model would make up to 11 arcs, more than 5"):
        build_lg(4, LEXICON, AnyWords(["ab", "AB", "aba", "a", "c"]), max_arcs=5)


def test_it_is_saved_and_loaded(tmp_path):
    built = build(TOKENS, 3, LEXICON, BIGRAM)
    built.save(tmp_path / "HLG.npz")
    loaded = DecodingGraph.load(tmp_path / "HLG.npz")
    for name in ("src", "dst", "label", "aux", "score", "final"):
        assert np.array_equal(getattr(loaded.graph, name), getattr(built.graph, name))
    assert (loaded.tokens, loaded.blank, loaded.topology, loaded.lexicon) == (TOKENS, 3, "standard", built.lexicon)
    with pytest.raises(SigmelError, match=r"ends in \.npz"):
        built.save(tmp_path / "HLG.pt")


def _damaged(change):
    """The arrays of a graph file, changed."""
    built = build(TOKENS, 3, LEXICON)
    graph = {name: getattr(built.graph, name) for name in ("src", "dst", "label", "aux", "score", "final")}
    facts = {"tokens": TOKENS, "blank": 3, "topology": "standard", "separator": None, "spellings": [("a", [(0,)])] * 5}
    change(graph, facts)
    return graph | {"facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph, facts: graph.pop("label"), "not a graph, as `sigmel graph build` makes them"),
        (lambda graph, facts: facts.pop("blank"), "not a graph, as `sigmel graph build` makes them"),
        (lambda graph, facts: facts.update(blank=4), "the blank, 4, is none of the 4 tokens"),
        (lambda graph, facts: facts.update(topology="x"), "topology 'x' is unknown"),
        (lambda graph, facts: graph["dst"].__setitem__(0, 10**6), "dst names a state"),
        (lambda graph, facts: graph["score"].__setitem__(2, np.nan), "the score of arc 2 is not finite"),
        (lambda graph, facts: graph["label"].__setitem__(0, 9), "a label that is not among 0 to 4"),
        (lambda graph, facts: (graph["label"].fill(0), graph["aux"].fill(0)), "epsilons lead from state 0 back to it"),
        (lambda graph, facts: graph["label"].fill(0), "arcs write, but read nothing"),
        (lambda graph, facts: graph["aux"].__setitem__(0, 99), "a word that is not among 1 to 1"),
        (lambda graph, facts: graph["src"].__setitem__(0, 1), "src is not in ascending order"),
        (lambda graph, facts: graph["final"].fill(-np.inf), "no state to end in"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    np.savez(tmp_path / "HLG.npz", **_damaged(change))
    with pytest.raises(SigmelError, match=rf"HLG\.npz: .*{message}"):
        DecodingGraph.load(tmp_path / "HLG.npz")


def test_something_else_than_a_graph_is_refused(tmp_path):
    (tmp_path / "HLG.npz").write_text("HLG")
    with pytest.raises(SigmelError, match="not a graph, as `sigmel graph build` makes them"):
        DecodingGraph.load(tmp_path / "HLG.npz")


def test_a_graph_of_other_tokens_is_refused():
    built = build(TOKENS, 3, LEXICON)
    built.check_tokens(("a", "b", "c", "<blank>"))
    with pytest.raises(SigmelError, match="token 1 of the graph is 'b', that of the model 'd'"):
        built.check_tokens(("a", "d", "c", "<blk>"))
    with pytest.raises(SigmelError, match="made for 4 tokens, the model has 3"):
        built.check_tokens(("a", "b", "<blk>"))


def test_a_picture():
    graph = Graph.from_arcs([0], [1], [1], [1], [-0.5], [-np.inf, 0.25])
    text = graph.to_dot(["<eps>", 'say "a"'], ["<eps>", "word"])
    assert '0 -> 1 [label="say \\"a\\":word/-0.5"]' in text
    assert '1 [shape=doublecircle, label="1/0.25"]' in text
