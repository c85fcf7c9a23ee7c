"""Building a decoding graph, which reads the frames of a CTC model and writes words.

LG is the composition of the spellings (L) with the language model (G), made deterministic and minimal. HLG is LG with
the CTC topology (H).

Mohri, Pereira and Riley, "Weighted finite-state transducers in speech recognition" (Computer Speech & Language, 2002);
Miao, Gowayyed and Metze, "EESEN: End-to-end speech recognition using deep RNN models and WFST-based decoding" (ASRU
2015).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from sigmel.decoding.graph.graph import ARRAYS, EPSILON, MAX_ARCS, Graph, check_size, ranges
from sigmel.decoding.graph.language_models import AnyWords, Language
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.openfst import composed, determinized
from sigmel.decoding.graph.phrases import Phrases
from sigmel.decoding.graph.topology import TOPOLOGIES, expand
from sigmel.errors import SigmelError, reading
from sigmel.files.atomic import atomic_path


@dataclass(frozen=True, eq=False)
class DecodingGraph:
    """A graph that reads frames and writes words, with the names of its tokens and words.

    Attributes:
        graph: HLG; label k + 1 is token k, and the words that arcs write are indices of `lexicon.words`.
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

    @cached_property
    def writes_tokens(self) -> bool:
        """Whether every word of the graph is a token of the model, so that text is made as from tokens."""
        spellings = self.lexicon.spellings.items()
        return all(
            len(found) == 1 and [word] == [self.tokens[token] for token in found[0]] for word, found in spellings
        )

    def save(self, path: Path) -> None:
        """Write the graph to one file (.npz)."""
        if Path(path).suffix != ".npz":
            raise SigmelError(f"{path}: a graph is kept in a file whose name ends in .npz")
        facts = {
            "tokens": self.tokens,
            "blank": self.blank,
            "topology": self.topology,
            "separator": self.lexicon.separator,
            "spellings": [(word, list(spellings)) for word, spellings in self.lexicon.spellings.items()],
        }
        arrays = {name: getattr(self.graph, name) for name in ARRAYS}
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))

    @classmethod
    def load(cls, path: Path) -> DecodingGraph:
        """Read a file that `save` wrote.

        Raises:
            SigmelError: there is no such file, it is not a graph, or its parts do not fit each other.
        """
        with reading(Path(path), "a graph, as `sigmel graph build` makes them"):
            with np.load(path, allow_pickle=False) as archive:
                graph = Graph(*(archive[name] for name in ARRAYS))
                facts = json.loads(archive["facts"].tobytes())
            spellings = {word: tuple(map(tuple, spellings)) for word, spellings in facts["spellings"]}
            lexicon = Lexicon(spellings, facts["separator"])
            loaded = cls(graph, tuple(facts["tokens"]), facts["blank"], facts["topology"], lexicon)
            loaded.validate()
            return loaded

    def validate(self) -> None:
        """Raise a SigmelError if the graph, tokens and words do not fit each other."""
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
        """Raise a SigmelError unless a model has the tokens that the graph was made for."""
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
        language: which words follow each other; None for any words of the lexicon.
        phrases: phrases that gain their boosts wherever they are said.
        topology: one of `TOPOLOGIES`.
        max_arcs: how many arcs any step may make.
        lm_scale: factor of the language model's scores; at least 0.
        word_score: score that every word adds to a path.

    Raises:
        SigmelError: the lexicon lacks words, or the graph would be too large or empty.
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
        LG, with epsilons where the language model backs off, and the lexicon of the words that LG writes.
    """
    language = language or AnyWords(list(lexicon.spellings))
    if missing := [word for word in language.words if word not in lexicon.spellings]:
        raise SigmelError(
            f"{len(missing)} words of the language model are not in the lexicon: {', '.join(missing[:5])}"
        )
    lexicon = replace(lexicon, spellings={word: lexicon.spellings[word] for word in language.words})
    numbers = lexicon.numbers
    backoff = len(numbers) + 1
    g = _weighed(language.to_graph(numbers, backoff), backoff, lm_scale, word_score)
    silent = range(backoff, max(backoff, int(g.label.max(initial=0))) + 1)
    if phrases and phrases.anywhere:
        if unknown := [word for phrase in phrases.anywhere for word in phrase.words if word not in numbers]:
            raise SigmelError(f"the phrases have words that the language model lacks: {', '.join(unknown[:5])}")
        g = composed(g, phrases.bias(numbers, silent))
    spelled = np.array([0, *(sum(map(len, found)) for found in lexicon.spellings.values()), *(1 for _ in silent)])
    check_size("spelling out the language model", int(spelled[g.label].sum()), max_arcs, "prune the language model")
    lg = determinized(composed(lexicon.to_graph(numbers, num_tokens + 1, silent), g))
    return _plain(lg, num_tokens, backoff), lexicon


def _weighed(g: Graph, backoff: int, lm_scale: float, word_score: float) -> Graph:
    """G with its scores multiplied by `lm_scale`, and `word_score` added to every word."""
    if not 0 <= lm_scale < np.inf or not np.isfinite(word_score):
        raise SigmelError(f"lm_scale: {lm_scale} and word_score: {word_score} must be finite, lm_scale at least 0")
    scaled = g.scaled(lm_scale)
    return replace(scaled, score=scaled.score + np.float32(word_score) * (g.label < backoff))


def _plain(lg: Graph, num_tokens: int, backoff: int) -> Graph:
    """LG with tokens and words only: labels that told spellings apart or mark backing off become epsilons."""
    label = np.where(lg.label > num_tokens, EPSILON, lg.label)
    aux = np.where(lg.aux >= backoff, EPSILON, lg.aux)
    src, dst, score = lg.src, lg.dst, lg.score
    # Where a spelling is also the beginning of another, an arc that reads nothing writes its word. The arc before,
    # which reads a token, could not know the word yet and writes nothing: now it writes the word instead.
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
