"""Lexicons: how words are spelled in a model's tokens, and the transducer L from tokens to words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigmel.decoding.graph.graph import EPSILON, Graph
from sigmel.errors import SigmelError

Spelling = tuple[int, ...]  # the model's numbers of tokens


@dataclass(frozen=True)
class Lexicon:
    """Words and their spellings.

    Attributes:
        spellings: word -> its spellings; each has at least one token.
        separator: the token that stands between words but belongs to none, such as ``<space>``; None where words
            carry their own boundary, as with SentencePiece.
    """

    spellings: Mapping[str, Sequence[Spelling]]
    separator: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The name of each number that a graph writes; that of 0 is ``<eps>``."""
        return ("<eps>", *self.spellings)

    def to_graph(self, words: Mapping[str, int], boundary: int, silent: Sequence[int]) -> Graph:
        """The transducer L, from tokens to words.

        Arcs from the labels from ``boundary`` on, one for each of ``silent``, let pass what a language model reads
        between words. A spelling that is that of another word, too, or its beginning, is followed by one of the labels
        beyond them, so that determinisation can tell them apart.

        Args:
            words: the number of each word to have; the others are left out.
            boundary: the first label beyond the tokens.
            silent: the numbers that are no words in the language model, such as that for backing off.
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
    """Read a lexicon: a line has a word, then its tokens, parted by white space; a word may have several lines.

    Args:
        path: the file.
        tokens: the names of the model's tokens.
        separator: the token between words, if there is one.

    Raises:
        SigmelError: a line without tokens or with one that the model does not have; no line at all.
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
    """Spell words as a model's tokenizer does.

    Args:
        words: the words.
        spell: the tokens of a word; None if the model's cannot spell it.
        separator: see `Lexicon`.

    Raises:
        SigmelError: words that cannot be spelled, the first of which are named; no word at all.
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
