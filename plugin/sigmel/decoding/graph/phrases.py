"""Phrases that are likely to be said: boosts for their words everywhere, or classes of phrases.

A file has a phrase a line, optionally followed by a tab and its boost. A line `[name]` begins the class `<name>`; a
grammar or a language model uses this name as a word that stands for any phrase of the class. Phrases before the first
such line are boosted wherever they are said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigmel.decoding.graph.grammar import Node, sequence
from sigmel.decoding.graph.graph import Graph, GraphBuilder
from sigmel.decoding.graph.openfst import determinized
from sigmel.errors import SigmelError

BOOST = 2.0  # of each word of a phrase


@dataclass(frozen=True)
class Phrase:
    """Words, and the score (a natural logarithm) that each word adds to a path with the whole phrase."""

    words: tuple[str, ...]
    boost: float = BOOST


@dataclass(frozen=True)
class Phrases:
    """Phrases by class.

    Attributes:
        anywhere: phrases that are boosted wherever they are said.
        classes: name of a class -> its phrases.
    """

    anywhere: tuple[Phrase, ...]
    classes: Mapping[str, tuple[Phrase, ...]]

    @property
    def words(self) -> list[str]:
        """The words of all phrases."""
        every = [self.anywhere, *self.classes.values()]
        return list(dict.fromkeys(word for phrases in every for phrase in phrases for word in phrase.words))

    def rules(self) -> dict[str, Node]:
        """Each class as a rule of a grammar; its phrases are equally likely, apart from their boosts."""
        found = {}
        for name, phrases in self.classes.items():
            parts = tuple(sequence(phrase.words) for phrase in phrases)
            found[name] = Node("choice", parts=parts, scores=tuple(shares(phrases)))
        return found

    def bias(self, numbers: Mapping[str, int], silent: Sequence[int]) -> Graph:
        """The acceptor of all sequences of words, in which the phrases of `anywhere` gain their boosts.

        Args:
            numbers: the number of each word.
            silent: numbers that may stand between any two words and change nothing.
        """
        builder = GraphBuilder()
        builder.final[0] = 0.0
        for number in numbers.values():
            builder.add_arc(0, 0, number)
        for phrase in self.anywhere:
            scores = [0.0] * (len(phrase.words) - 1) + [phrase.boost * len(phrase.words)]  # only at the end
            builder.add_path(0, 0, [numbers[word] for word in phrase.words], scores=scores)
        for state in range(len(builder.final)):
            for number in silent:
                builder.add_arc(state, state, number)
        return determinized(builder.graph())


def shares(phrases: Sequence[Phrase]) -> list[float]:
    """The score of each phrase of a class: equal shares, plus the boosts."""
    return [phrase.boost * len(phrase.words) - math.log(len(phrases)) for phrase in phrases]


def read_phrases(path: Path, boost: float = BOOST) -> Phrases:
    """Read a file of phrases, in the format described above.

    Args:
        path: the file.
        boost: boost of phrases without a boost of their own.

    Raises:
        SigmelError: a boost is not a number, a class is empty or there twice, or there is no phrase; the message has
            the number of the line.
    """
    anywhere: list[Phrase] = []
    classes: dict[str, list[Phrase]] = {}
    current = anywhere
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if heading := re.fullmatch(r"\s*\[([^\[\]<>\s]+)\]\s*", line):
            if heading[1] in classes:
                raise SigmelError(f"{path}:{at}: the class [{heading[1]}] is there twice")
            current = classes.setdefault(heading[1], [])
            continue
        text, tab, number = line.partition("\t")
        try:
            own = float(number) if tab else boost
        except ValueError:
            own = math.nan
        if not math.isfinite(own) or not text.split():
            raise SigmelError(f"{path}:{at}: {line!r} is no phrase, or no phrase, tab and boost")
        current.append(Phrase(tuple(text.split()), own))
    if empty := [name for name, phrases in classes.items() if not phrases]:
        raise SigmelError(f"{path}: the class [{empty[0]}] has no phrase")
    if not anywhere and not classes:
        raise SigmelError(f"{path}: there is no phrase")
    return Phrases(tuple(anywhere), {name: tuple(phrases) for name, phrases in classes.items()})
