"""From tokens, spellings and a language model to one graph that reads the frames of a CTC model and writes words.

LG joins the spellings (L) to the language model (G): composed, determinised, minimised. HLG adds the CTC topology.

Mohri, Pereira and Riley, "Weighted finite-state transducers in speech recognition" (Computer Speech & Language, 2002);
Miao, Gowayyed and Metze, "EESEN: End-to-end speech recognition using deep RNN models and WFST-based decoding" (ASRU
2015).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sigmel.decoding.graph.graph import ARRAYS, EPSILON, Graph, ranges, read_arrays, write_arrays
from sigmel.decoding.graph.language import AnyWords, Language
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.openfst import composed, determinized
from sigmel.decoding.graph.phrases import Phrases
from sigmel.decoding.graph.topology import MAX_ARCS, TOPOLOGIES, expand
from sigmel.errors import SigmelError


@dataclass(frozen=True, eq=False)
class DecodingGraph:
    """A graph that reads frames and writes words, with what is needed to understand both.

    Attributes:
        graph: HLG; its label k + 1 is token k, what it writes is a number of ``lexicon.words``.
        tokens: the names of the model's tokens, the blank among them.
        blank: the number of the blank.
        topology: one of `TOPOLOGIES`.
        lexicon: the words and their spellings.
    """

    graph: Graph
    tokens: tuple[str, ...]
    blank: int
    topology: str
    lexicon: Lexicon

    @property
    def writes_tokens(self) -> bool:
        """Whether each of its words is just a token of the model, so that text is made of them as of tokens."""
        found = self.lexicon.spellings.items()
        return all(len(one) == 1 and [word] == [self.tokens[token] for token in one[0]] for word, one in found)

    def save(self, path: Path) -> None:
        """Write all of it to one file (.npz)."""
        facts = {
            "tokens": self.tokens,
            "blank": self.blank,
            "topology": self.topology,
            "separator": self.lexicon.separator,
            "spellings": [(word, list(spellings)) for word, spellings in self.lexicon.spellings.items()],
        }
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        write_arrays(path, {name: getattr(self.graph, name) for name in ARRAYS} | {"facts": text})

    @classmethod
    def load(cls, path: Path) -> DecodingGraph:
        """Read what `save` wrote.

        Raises:
            SigmelError: the file is none, or its parts do not fit each other.
        """
        arrays = read_arrays(path, [*ARRAYS, "facts"])
        try:
            facts = json.loads(arrays.pop("facts").tobytes())
            spellings = {word: tuple(tuple(one) for one in found) for word, found in facts["spellings"]}
            lexicon = Lexicon(spellings, facts["separator"])
            found = cls(Graph(**arrays), tuple(facts["tokens"]), facts["blank"], facts["topology"], lexicon)
        except (KeyError, TypeError, ValueError) as error:
            raise SigmelError(f"{path}: no graph of sigmel's ({error})") from error
        try:
            found.validate()
        except SigmelError as error:
            raise SigmelError(f"{path}: {error}") from error
        return found

    def validate(self) -> None:
        """Raise a SigmelError that says what does not fit."""
        self.graph.validate()
        if not 0 <= self.blank < len(self.tokens):
            raise SigmelError(f"the blank, {self.blank}, is none of the {len(self.tokens)} tokens")
        if self.topology not in TOPOLOGIES:
            raise SigmelError(f"topology {self.topology!r} is unknown; one of {', '.join(TOPOLOGIES)}")
        self.graph.check_epsilons()
        if np.any(self.graph.label > len(self.tokens)):
            raise SigmelError(f"an arc reads a label that is not among 0 to {len(self.tokens)}")
        if np.any(self.graph.aux >= len(self.lexicon.words)):
            raise SigmelError(f"an arc writes a word that is not among 1 to {len(self.lexicon.words) - 1}")

    def check_tokens(self, tokens: Sequence[str]) -> None:
        """Raise a SigmelError if a model's tokens are not those that the graph was made for."""
        if len(tokens) != len(self.tokens):
            raise SigmelError(f"the graph was made for {len(self.tokens)} tokens, the model has {len(tokens)}")
        for number, (ours, theirs) in enumerate(zip(self.tokens, tokens, strict=True)):
            if ours != theirs and number != self.blank:  # hosts have several names for the blank
                raise SigmelError(f"token {number} of the graph is {ours!r}, that of the model {theirs!r}")


def build(
    tokens: Sequence[str],
    blank: int,
    lexicon: Lexicon,
    language: Language | None = None,
    phrases: Phrases | None = None,
    topology: str = "standard",
    max_arcs: int = MAX_ARCS,
    lm_scale: float = 1.0,
    word_score: float = 0.0,
) -> DecodingGraph:
    """Build HLG.

    Args:
        tokens: the names of the model's tokens, the blank among them.
        blank: the number of the blank.
        lexicon: how words are spelled.
        language: which words follow each other; None for any of the lexicon's.
        phrases: those to listen for everywhere gain their boosts.
        topology: one of `TOPOLOGIES`.
        max_arcs: how many arcs any step may make.
        lm_scale: what the language model's scores are multiplied with; at least 0.
        word_score: what every word adds to the score of a path.

    Raises:
        SigmelError: words that the lexicon lacks, a result that is too large or empty.
    """
    lg, lexicon = build_lg(len(tokens), lexicon, language, phrases, max_arcs, lm_scale, word_score)
    found = DecodingGraph(expand(lg, blank, topology, max_arcs), tuple(tokens), blank, topology, lexicon)
    found.validate()
    return found


def build_lg(
    num_tokens: int,
    lexicon: Lexicon,
    language: Language | None = None,
    phrases: Phrases | None = None,
    max_arcs: int = MAX_ARCS,
    lm_scale: float = 1.0,
    word_score: float = 0.0,
) -> tuple[Graph, Lexicon]:
    """Build LG, which reads tokens and writes words; see `build`.

    Returns:
        LG, which still backs off by epsilons, and the lexicon of the words that it writes.
    """
    language = language or AnyWords(list(lexicon.spellings))
    if missing := [word for word in language.words if word not in lexicon.spellings]:
        raise SigmelError(
            f"{len(missing)} words of the language model are not in the lexicon: {', '.join(missing[:5])}"
        )
    lexicon = replace(lexicon, spellings={word: lexicon.spellings[word] for word in language.words})
    numbers = {word: number for number, word in enumerate(lexicon.spellings, 1)}
    backoff = len(numbers) + 1
    g = _weighed(language.to_graph(numbers, backoff), backoff, lm_scale, word_score)
    silent = range(backoff, max(backoff, int(g.label.max(initial=0))) + 1)
    if phrases and phrases.anywhere:
        if unknown := [word for one in phrases.anywhere for word in one.words if word not in numbers]:
            raise SigmelError(f"the phrases have words that the language model lacks: {', '.join(unknown[:5])}")
        g = composed(g, phrases.bias(numbers, silent))
    spelled = np.array([0, *(sum(map(len, found)) for found in lexicon.spellings.values()), *(1 for _ in silent)])
    _check_size("spelling out the language model", int(spelled[g.label].sum()), max_arcs)
    lg = determinized(composed(lexicon.to_graph(numbers, num_tokens + 1, silent), g))
    return _plain(lg, num_tokens, backoff), lexicon


def _weighed(g: Graph, backoff: int, lm_scale: float, word_score: float) -> Graph:
    """G with its scores multiplied, and something added for each word."""
    if not 0 <= lm_scale < np.inf or not np.isfinite(word_score):
        raise SigmelError(f"lm_scale: {lm_scale} and word_score: {word_score} have to be finite, lm_scale at least 0")
    scaled = g.scaled(lm_scale)
    return replace(scaled, score=scaled.score + np.float32(word_score) * (g.label < backoff))


def _plain(lg: Graph, num_tokens: int, backoff: int) -> Graph:
    """LG with tokens and words only: the labels that told spellings apart, and backing off, become epsilons."""
    label = np.where(lg.label > num_tokens, EPSILON, lg.label)
    aux = np.where(lg.aux >= backoff, EPSILON, lg.aux)
    src, dst, score = lg.src, lg.dst, lg.score
    # Where a spelling is also the beginning of another, its word is written by an arc that reads nothing. The token
    # before it writes nothing, since the word was not known yet, so it can write the word instead.
    late = (label == EPSILON) & (aux != EPSILON)
    by_end = np.argsort(dst, kind="stable")
    first, last = (np.searchsorted(dst[by_end], src[late], side) for side in ("left", "right"))
    count = last - first
    word = np.repeat(np.flatnonzero(late), count)
    token = by_end[ranges(first, count)]
    keep = ~late
    columns = (
        np.concatenate([src[keep], src[token]]),
        np.concatenate([dst[keep], dst[word]]),
        np.concatenate([label[keep], label[token]]),
        np.concatenate([aux[keep], aux[word]]),
        np.concatenate([score[keep], score[token] + score[word]]),
    )
    return Graph.from_arcs(*columns, lg.final)


def _check_size(what: str, arcs: int, max_arcs: int) -> None:
    if arcs > max_arcs:
        raise SigmelError(f"{what} would make up to {arcs:,} arcs, more than {max_arcs:,}; prune the language model")
