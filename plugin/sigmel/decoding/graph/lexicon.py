"""Lexicons: the spellings of words in a model's tokens, and the transducer L from tokens to words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from sigmel.decoding.graph.graph import EPSILON, Graph, GraphBuilder

Spelling = tuple[int, ...]  # numbers of the model's tokens


@dataclass(frozen=True)
class Lexicon:
    """Words and their spellings.

    Attributes:
        spellings: word -> its spellings; each spelling has at least one token.
        separator: the token that stands between words but belongs to no word, such as `<space>`; None where words
            carry their own boundary, as with SentencePiece.
    """

    spellings: Mapping[str, Sequence[Spelling]]
    separator: int | None = None

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The word of each number that a graph writes; number 0 is `<eps>`, no word."""
        return ("<eps>", *self.spellings)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word, from 1 on."""
        return {word: number for number, word in enumerate(self.spellings, 1)}

    def to_graph(self, words: Mapping[str, int], boundary: int, silent: Sequence[int]) -> Graph:
        """The transducer L, from tokens to words.

        Labels from `boundary` on, one for each number of `silent`, are read where a language model reads that number
        between words. A spelling that another word shares or begins with is followed by one of the labels after
        those, so that determinisation can tell the words apart.

        Args:
            words: the number of each word to include; other words are left out.
            boundary: the first label after the tokens.
            silent: numbers that are not words in the language model, such as the number for backing off.
        """
        between = [boundary + at for at in range(len(silent))]
        builder = GraphBuilder()
        after = 0  # state after a word
        if self.separator is not None:
            after = builder.add_state()
            builder.add_arc(after, 0, self.separator + 1, EPSILON)
        for state in {0, after}:
            builder.final[state] = 0.0
            for label, number in zip(between, silent, strict=True):
                builder.add_arc(state, state, label, number)
        chosen = [(number, spelling) for word, number in words.items() for spelling in self.spellings[word]]
        shared = Counter(spelling for _, spelling in chosen)
        beginnings = {spelling[:end] for _, spelling in chosen for end in range(1, len(spelling))}
        marks: Counter[Spelling] = Counter()
        for number, spelling in chosen:
            labels = [token + 1 for token in spelling]
            if shared[spelling] > 1 or spelling in beginnings:
                marks[spelling] += 1
                labels.append(between[-1] + marks[spelling])
            builder.add_path(0, after, labels, [number] + [EPSILON] * (len(labels) - 1))
        return builder.graph()
