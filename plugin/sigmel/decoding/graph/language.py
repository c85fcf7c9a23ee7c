"""Language models: which words follow each other. n-grams and grammars have modules of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.phrases import Phrase, Phrases, shares
from sigmel.errors import SigmelError


class Language(Protocol):
    """What says which words follow each other: an `NGramModel`, a `Grammar`, `AnyWords`."""

    @property
    def words(self) -> list[str]:
        """The words it knows."""

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """The acceptor G, without epsilons; where it backs off, it reads ``backoff``; what is beyond is silent too."""


@dataclass(frozen=True)
class AnyWords:
    """Every sequence of some words, all equally good."""

    words: list[str]

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """One state, with an arc a word."""
        label = [numbers[word] for word in self.words]
        zeros = np.zeros(len(label))
        return Graph.from_arcs(zeros, zeros, label, label, zeros, [0.0])


@dataclass(frozen=True)
class ClassModel:
    """A language model, some of whose words are classes of phrases: ``<name>``.

    Brown et al., "Class-based n-gram models of natural language" (Computational Linguistics, 1992); the members of a
    class are equally likely, but for their boosts.

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
        """The words it knows, those of the classes among them."""
        plain = [word for word in self.model.words if word[1:-1] not in self.classes or word != f"<{word[1:-1]}>"]
        return list(dict.fromkeys([*plain, *Phrases((), self.classes).words]))

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """The acceptor G, in which arcs read where a class begins and ends.

        Without these marks, phrases that are sentences of the model, too, would keep G from becoming deterministic.

        Args:
            numbers: the number of each word.
            backoff: the number for backing off. The ends of classes have the next one, their beginnings further ones.
        """
        end = backoff + 1
        begins = {name: end + at for at, name in enumerate(self.classes, 1)}
        g = self.model.to_graph({**numbers, **{f"<{name}>": begin for name, begin in begins.items()}}, backoff)
        states = g.num_states
        arcs: list[tuple[int, int, int, float]] = []
        entry = g.dst.copy()  # where each arc of a class leads to instead: to its phrases
        for name, begin in begins.items():
            for dst in np.unique(g.dst[g.label == begin]).tolist():
                first, last, states = states, states + 1, states + 2
                entry[(g.label == begin) & (g.dst == dst)] = first
                arcs.append((last, dst, end, 0.0))
                for phrase, score in zip(self.classes[name], shares(self.classes[name]), strict=True):
                    inner = range(states, states + len(phrase.words) - 1)
                    states += len(inner)
                    said = [numbers[word] for word in phrase.words]
                    scores = [score] + [0.0] * len(inner)
                    arcs += zip([first, *inner], [*inner, last], said, scores, strict=True)
        src, to, label, score = np.array(arcs, np.float64).reshape(-1, 4).T
        inside = np.full(states - g.num_states, -np.inf)
        return replace(g, dst=entry).with_arcs(src, to, label, label, score, inside)
