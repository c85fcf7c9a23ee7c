"""Grammars and phrases: what they allow, and what is wrong with them."""

import itertools
import math
import re

import pytest

from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.phrases import Phrase, read_phrases
from sigmel.errors import SigmelError


def sentences(brute_force, text, most=4):
    """The sentences of a grammar, with their scores."""
    grammar = parse_grammar(text)
    numbers = {word: number for number, word in enumerate(grammar.words, 1)}
    graph = grammar.to_graph(numbers, 99)
    found = {}
    for length in range(most + 1):
        for said in itertools.product(grammar.words, repeat=length):
            for _, score in brute_force.best_paths(graph, [numbers[word] for word in said]).items():
                found[" ".join(said)] = score
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<x> = turn on;", {"turn on"}),
        ("<x> = turn (on | off);", {"turn on", "turn off"}),
        ("<x> = a [b] c;", {"a c", "a b c"}),
        ("<x> = a b*;", {"a", "a b", "a b b", "a b b b"}),
        ("<x> = (a | b a)+;", {"a", "b a", "a a", "a b a", "b a a", "b a b a", "a a a", "a a b a", "a b a a"}),
        ("<x> = <y> c; <y> = a | b;", {"a c", "b c"}),
        ("<y> = a; public <x> = <y> <y>;", {"a a"}),
        ("#JSGF V1.0 UTF-8 en;\ngrammar test;\n// all\n<x> = /* or not */ a;", {"a"}),
        ("<x> = [a] [b];", {"", "a", "b", "a b"}),
        ("<x> = ([a])* b;", {"b", "a b", "a a b", "a a a b"}),
        ("<x> = aujourd'hui | größer;", {"aujourd'hui", "größer"}),
    ],
)
def test_sentences(brute_force, text, expected):
    found = sentences(brute_force, text)
    assert expected <= set(found)
    for said in set(found) - expected:  # longer ones of repetitions
        assert re.search(r"[*+]", text)
        assert len(said.split()) >= 3
    assert all(score == pytest.approx(0.0, abs=1e-3) for score in found.values())


def test_the_better_way_to_say_the_same_counts(brute_force):
    found = sentences(brute_force, "<x> = /3/ a [b] | /1/ a b;")
    assert found == {"a": pytest.approx(math.log(0.75), abs=1e-3), "a b": pytest.approx(math.log(0.75), abs=1e-3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the grammar is empty"),
        ("// nothing", "the grammar is empty"),
        ("<x> = [];", "g:1: a word or a rule is due before ']'"),
        ("<x> = a\n<y> = b;", "g:2: ';' is due before '='|g:2"),
        ("<x> = a;\n\n<y> = <z>;", "g:3: there is no rule <z>"),
        ("<x> = a <y>;\n<y> = b <x>;", "<x> uses itself; repeat with"),
        ("<x> = a;\n<x> = b;", "g:2: <x> is there twice"),
        ("public <x> = a; public <y> = b;", "only one rule can be public"),
        ("<x> = /0/ a | /1/ b;", "the weight /0/ is no positive number"),
        ("<x> = /1/ a | b;", "some alternatives have a weight"),
        ("<x> = (a | b;", r"'\)' is due before ';'"),
        ("<x> = a {tag};\n<y> = >", "g:2: '>' is not understood"),
        ("x = a;", "<name> of a rule is due before 'x'"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_line(text, message):
    with pytest.raises(SigmelError, match=message):
        parse_grammar(text, "g")


def test_phrases_are_read(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("new york\n\nlos angeles\t3.5\n[contact]\nanna  schmidt\nbob\t-1\n")
    found = read_phrases(path, 1.5)
    assert found.anywhere == (Phrase(("new", "york"), 1.5), Phrase(("los", "angeles"), 3.5))
    assert found.classes == {"contact": (Phrase(("anna", "schmidt"), 1.5), Phrase(("bob",), -1.0))}
    assert found.words == ["new", "york", "los", "angeles", "anna", "schmidt", "bob"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no phrase"),
        ("a\tmuch", r":1: 'a\\tmuch' is no phrase"),
        ("a\tnan", ":1:"),
        ("\t2", ":1:"),
        ("[x]\n", r"the class \[x\] has no phrase"),
        ("[x]\na\n[x]\nb", r":3: the class \[x\] is there twice"),
    ],
)
def test_broken_phrases(tmp_path, text, message):
    path = tmp_path / "names.txt"
    path.write_text(text)
    with pytest.raises(SigmelError, match=message):
        read_phrases(path)
