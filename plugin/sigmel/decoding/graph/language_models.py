"""Language models, which say which words follow each other; n-grams and grammars have modules of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from sigmel.decoding.graph.graph import EPSILON, Graph, GraphBuilder
from sigmel.decoding.graph.openfst import composed
from sigmel.decoding.graph.phrases import Phrase, Phrases, shares
from sigmel.errors import SigmelError


class Language(Protocol):
    """A language model: an `NGramModel`, a `Grammar`, or a class of this module."""

    @property
    def words(self) -> list[str]:
        """The words of the language model."""

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """The acceptor G, without epsilons; label `backoff` stands for backing off, greater labels are silent, too."""


@dataclass(frozen=True)
class AnyWords:
    """Any sequence of words, all with score 0.

    Attributes:
        words: the words.
    """

    words: list[str]

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """One state, with an arc for each word."""
        label = [numbers[word] for word in self.words]
        zeros = np.zeros(len(label))
        return Graph.from_arcs(zeros, zeros, label, label, zeros, [0.0])


@dataclass(frozen=True)
class ClassModel:
    """A language model in which some words, written `<name>`, are classes of phrases.

    Brown et al., "Class-based n-gram models of natural language" (Computational Linguistics, 1992); the members of a
    class are equally likely, apart from their boosts.

    Attributes:
        model: the language model, in which classes are words.
        classes: see `Phrases`.
    """

    model: Language
    classes: Mapping[str, tuple[Phrase, ...]]

    def __post_init__(self) -> None:
        if unused := [f"<{name}>" for name in self.classes if f"<{name}>" not in self.model.words]:
            raise SigmelError(f"the language model does not use the class {unused[0]}")

    @property
    def words(self) -> list[str]:
        """The words of the language model and of the phrases, without the names of classes."""
        plain = [word for word in self.model.words if word[1:-1] not in self.classes or word != f"<{word[1:-1]}>"]
        return list(dict.fromkeys([*plain, *Phrases((), self.classes).words]))

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """The acceptor G, in which labels mark where a class begins and ends.

        Without these marks, G could not become deterministic where a phrase is also a sentence of the model.

        Args:
            numbers: the number of each word.
            backoff: the number for backing off; the next number marks the ends of classes, further numbers mark the
                beginning of each class.
        """
        end = backoff + 1
        begins = {name: end + at for at, name in enumerate(self.classes, 1)}
        g = self.model.to_graph({**numbers, **{f"<{name}>": begin for name, begin in begins.items()}}, backoff)
        builder = GraphBuilder()  # reads words, and writes words and classes
        builder.final[0] = 0.0
        for number in (*numbers.values(), backoff):
            builder.add_arc(0, 0, number)
        for name, begin in begins.items():
            first, last = builder.add_state(), builder.add_state()
            builder.add_arc(0, first, begin)
            builder.add_arc(last, 0, end, EPSILON)
            for phrase, score in zip(self.classes[name], shares(self.classes[name]), strict=True):
                said = [numbers[word] for word in phrase.words]
                builder.add_path(first, last, said, [EPSILON] * len(said), [score] + [0.0] * (len(said) - 1))
        found = composed(builder.graph(), g)
        return replace(found, aux=found.label)
