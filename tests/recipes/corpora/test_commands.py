"""The grammar of spoken commands."""

import re

import numpy as np
import pytest

from sigmel.errors import SigmelError
from sigmel.recipes.corpora import commands


def test_at_least_300_words():
    rng = np.random.default_rng(0)
    said = {word for _ in range(30000) for word in commands.sentence(rng).split()}
    phrases = " ".join(phrase for phrases in commands.RULES.values() for phrase in phrases)
    vocabulary = set(re.sub(r"\{.*?\}", "", phrases).split())
    assert len(said) >= 300
    assert said <= vocabulary
    assert len(said) > 0.97 * len(vocabulary)
    assert all(re.fullmatch("[a-z]+", word) for word in vocabulary)


def test_every_rule_is_defined_and_used():
    referred = {
        name for phrases in commands.RULES.values() for phrase in phrases for name in re.findall(r"\{(.*?)\}", phrase)
    }
    assert referred | {"command"} == set(commands.RULES)


def test_sentences_are_of_moderate_length():
    rng = np.random.default_rng(0)
    lengths = [len(commands.sentence(rng).split()) for _ in range(2000)]
    assert 4 < np.mean(lengths) < 8
    assert max(lengths) <= 20


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "zero"), (13, "thirteen"), (40, "forty"), (42, "forty two"), (100, "one hundred"),
     (342, "three hundred and forty two"), (905, "nine hundred and five")],
)  # fmt: skip
def test_spell(number, words):
    assert commands.spell(number) == words


def test_small_numbers_are_complete():
    for rule, numbers in (("digit", range(10)), ("small", range(2, 13)), ("hour", range(1, 13))):
        assert commands.RULES[rule] == [commands.spell(number) for number in numbers]
    assert len(commands.RULES["ordinal"]) == 31
    for day, words in ((1, "first"), (12, "twelfth"), (20, "twentieth"), (22, "twenty second"), (31, "thirty first")):
        assert commands.RULES["ordinal"][day - 1] == words


def test_speakers_of_sets_are_disjoint():
    train, dev, test = (set(commands.speakers(name)) for name in ("train", "dev", "test"))
    assert len(train) > 70
    assert len(dev) >= 5
    assert len(test) >= 10
    assert not (train & dev) | (train & test) | (dev & test)


def test_sentences_keep_to_the_parts_of_their_set_and_occur_once():
    rng = np.random.default_rng(0)
    used = set()
    parts = {"train": range(80), "dev": range(80, 85), "test": range(85, 100), "test_ood": range(85, 100)}
    said = {name: list(commands.sentences(name, 50, rng, used, ("timer", "alarm"))) for name in parts}
    for name, texts in said.items():
        assert len(texts) == 50
        assert {commands.part_of(text) for text in texts} <= set(parts[name])
    assert used == {*said["dev"], *said["test"], *said["test_ood"]}
    assert len(used) == 150
    with pytest.raises(SigmelError, match="few sentences left of rise"):
        list(commands.sentences("train", 1, rng, {"rise", "set"}, ("rise",)))
