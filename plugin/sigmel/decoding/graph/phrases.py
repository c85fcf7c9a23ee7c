"""Phrases to listen for: what their words gain wherever they are said, or the members of a class.

A file has a phrase a line, then perhaps a tab and its boost. A line ``[name]`` begins the class ``<name>``, whose
phrases a grammar or a language model uses by that name, as if it were a word; what stands before the first such line
is listened for everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sigmel.decoding.graph.grammar import Node
from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.openfst import determinized
from sigmel.errors import SigmelError

BOOST = 2.0  # of a word


@dataclass(frozen=True)
class Phrase:
    """Words, and what each of them adds to the score of a path that has them all, as a natural logarithm."""

    words: tuple[str, ...]
    boost: float = BOOST


@dataclass(frozen=True)
class Phrases:
    """Phrases by class.

    Attributes:
        anywhere: those that are listened for everywhere.
        classes: name -> its phrases.
    """

    anywhere: tuple[Phrase, ...]
    classes: Mapping[str, tuple[Phrase, ...]]

    @property
    def words(self) -> list[str]:
        """The words of all phrases."""
        every = [self.anywhere, *self.classes.values()]
        return list(dict.fromkeys(word for phrases in every for phrase in phrases for word in phrase.words))

    def rules(self) -> dict[str, Node]:
        """Each class as a rule of a grammar: its phrases are equally likely, but for their boosts."""
        found = {}
        for name, phrases in self.classes.items():
            parts = [Node("sequence", parts=tuple(Node("word", word) for word in one.words)) for one in phrases]
            found[name] = Node("choice", parts=tuple(parts), scores=tuple(shares(phrases)))
        return found

    def bias(self, numbers: Mapping[str, int], silent: Sequence[int]) -> Graph:
        """The acceptor of all sequences of ``numbers``, in which the phrases for everywhere gain their boosts.

        Args:
            numbers: the number of each word.
            silent: numbers that may stand between any two words, and change nothing.
        """
        every = list(numbers.values())
        src, dst, label, score = [0] * len(every), [0] * len(every), list(every), [0.0] * len(every)
        states = 1
        for phrase in self.anywhere:
            inner = range(states, states + len(phrase.words) - 1)
            states += len(inner)
            src += [0, *inner]
            dst += [*inner, 0]
            label += [numbers[word] for word in phrase.words]
            score += [0.0] * len(inner) + [phrase.boost * len(phrase.words)]  # gained at its end, never taken back
        final = [0.0] + [-math.inf] * (states - 1)
        biased = determinized(Graph.from_arcs(src, dst, label, label, score, final))
        loops = np.repeat(np.arange(biased.num_states), len(silent))
        labels = np.tile(silent, biased.num_states)
        return biased.with_arcs(loops, loops, labels, labels, np.zeros(len(loops)))


def shares(phrases: Sequence[Phrase]) -> list[float]:
    """The score of each of a class: equal, but for their boosts."""
    return [one.boost * len(one.words) - math.log(len(phrases)) for one in phrases]


def read_phrases(path: Path, boost: float = BOOST) -> Phrases:
    """Read phrases, see above.

    Args:
        path: the file.
        boost: of phrases that have none of their own.

    Raises:
        SigmelError: with the number of the line: a boost that is no number, a class that is empty or there twice; a
            file without phrases.
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
