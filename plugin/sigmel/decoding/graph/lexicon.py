"""Lexicons: the spellings of words in a model's tokens, and the transducer L from tokens to words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sigmel.decoding.graph.graph import EPSILON, Graph
from sigmel.errors import SigmelError

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
        src, dst = [0] * len(silent) + [1] * len(silent), [0] * len(silent) + [1] * len(silent)
        label, aux = [*between, *between], [*silent, *silent]
        states = 2  # 0: before a word; 1: after one, only where there is a separator
        after = 0 if self.separator is None else 1
        if self.separator is not None:
            src, dst, label, aux = [*src, 1], [*dst, 0], [*label, self.separator + 1], [*aux, EPSILON]
        chosen = [(number, spelling) for word, number in words.items() for spelling in self.spellings[word]]
        shared = Counter(spelling for _, spelling in chosen)
        beginnings = {spelling[:end] for _, spelling in chosen for end in range(1, len(spelling))}
        told: Counter[Spelling] = Counter()
        for number, spelling in chosen:
            labels = [token + 1 for token in spelling]
            if shared[spelling] > 1 or spelling in beginnings:
                told[spelling] += 1
                labels.append(between[-1] + told[spelling])
            inner = range(states, states + len(labels) - 1)
            states += len(inner)
            src += [0, *inner]
            dst += [*inner, after]
            label += labels
            aux += [number] + [EPSILON] * len(inner)
        final = [-float("inf")] * states
        final[0] = final[after] = 0.0
        return Graph.from_arcs(src, dst, label, aux, [0.0] * len(src), final)


def read_lexicon(path: Path, tokens: Sequence[str], separator: str | None = None) -> Lexicon:
    """Read a lexicon: a line has a word and then its tokens, separated by spaces; a word may have several lines.

    Args:
        path: the file.
        tokens: the names of the model's tokens.
        separator: the token between words, if the model has such a token.

    Raises:
        SigmelError: a line has no tokens or a token that the model lacks, or the file has no word.
    """
    numbers = {token: number for number, token in enumerate(tokens)}
    if separator is not None and separator not in numbers:
        raise SigmelError(f"separator {separator!r} is no token of the model")
    spellings: dict[str, list[Spelling]] = {}
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        word, *spelled = line.split() or [""]
        if not word:
            continue
        if not spelled:
            raise SigmelError(f"{path}:{at}: {word!r} has no tokens")
        if unknown := [token for token in spelled if token not in numbers]:
            raise SigmelError(f"{path}:{at}: {word!r} is spelled with {unknown[0]!r}, which is no token of the model")
        spelling = tuple(numbers[token] for token in spelled)
        known = spellings.setdefault(word, [])
        if spelling not in known:
            known.append(spelling)
    if not spellings:
        raise SigmelError(f"{path}: the lexicon has no word")
    return Lexicon(spellings, None if separator is None else numbers[separator])


def spelled_lexicon(
    words: Iterable[str], spell: Callable[[str], Spelling | None], separator: int | None = None
) -> Lexicon:
    """A lexicon of words as a model's tokenizer spells them.

    Args:
        words: the words.
        spell: gives the tokens of a word; None if the model's tokens cannot spell the word.
        separator: see `Lexicon`.

    Raises:
        SigmelError: a word cannot be spelled, or there is no word.
    """
    spelled = {word: spell(word) for word in dict.fromkeys(words)}
    if bad := [word for word, spelling in spelled.items() if not spelling]:
        raise SigmelError(f"the model's tokens cannot spell {_some(bad)}")
    if not spelled:
        raise SigmelError("there is no word to spell")
    return Lexicon({word: (spelling,) for word, spelling in spelled.items() if spelling}, separator)


def _some(words: Sequence[str]) -> str:
    """The first words of many, for a message."""
    return ", ".join(map(repr, words[:5])) + (f" and {len(words) - 5} more" if len(words) > 5 else "")
