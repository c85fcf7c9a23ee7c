"""Hypotheses: words and tokens with their times, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.build import DecodingGraph


class Segment(NamedTuple):
    """A word or a token in the frames from `start` to just before `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """One path through the graph.

    Attributes:
        words: the words with their times.
        tokens: the tokens with their times.
        alignment: (T,) the token or blank in each frame, as a number of the model.
        score: natural logarithm, the sum of the model's score and the graph's.
        graph_score: the graph's part of `score`.
        complete: whether the path ends where the graph may end.
        reason: why the path is missing or not complete; "" for a complete path.
    """

    words: tuple[Segment, ...]
    tokens: tuple[Segment, ...]
    alignment: NDArray[np.int32]
    score: float
    graph_score: float
    complete: bool = True
    reason: str = ""

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(word.name for word in self.words)


NO_END = "no path that is left ends where the graph may end"


def empty(reason: str) -> Hypothesis:
    """A hypothesis without a path, for a reason."""
    return Hypothesis((), (), np.zeros(0, np.int32), -np.inf, -np.inf, False, reason)


def segments(
    graph: DecodingGraph, alignment: Sequence[int], words: Sequence[int]
) -> tuple[tuple[Segment, ...], tuple[Segment, ...]]:
    """The times of words and of their tokens.

    Args:
        graph: the graph that was searched.
        alignment: (T,) the token or blank in each frame, as a number of the model.
        words: the numbers of the words in their order; the last word may be cut off.
    """
    runs = _runs(graph, alignment)
    spelled = _spelled(graph, [run[0] for run in runs], words)
    found_words, found_tokens = [], []
    for number, taken in zip(words, spelled, strict=True):
        name = graph.lexicon.words[number]
        found_words.append(Segment(name, runs[taken[0]][1], runs[taken[-1]][2]))
        found_tokens += [Segment(graph.tokens[runs[run][0]], *runs[run][1:]) for run in taken]
    return tuple(found_words), tuple(found_tokens)


def _runs(graph: DecodingGraph, alignment: Sequence[int]) -> list[tuple[int, int, int]]:
    """Token, start and end of each run, which is a stretch of frames that read the same token once."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    for token, frames in groupby(alignment):
        end = at + len(list(frames))
        step = 1 if graph.topology == "minimal" else end - at
        if token != graph.blank:
            runs += [(token, begin, begin + step) for begin in range(at, end, step)]
        at = end
    return runs


def _spelled(graph: DecodingGraph, tokens: Sequence[int], words: Sequence[int]) -> list[list[int]]:
    """The runs of each word; all spellings are tried, from every run where the words before may end."""
    separator = graph.lexicon.separator
    share = graph.topology == "compact"  # equal neighbours may be one run

    def take(at: int, spelling: Sequence[int], last: bool) -> list[int]:
        """The runs of a spelling from run `at` on; [] if the runs do not spell it."""
        taken: list[int] = []
        for token in spelling:
            if at < len(tokens) and tokens[at] == token:
                at += 1
            elif at == len(tokens) and last and taken:
                break
            elif not (share and at and tokens[at - 1] == token):
                return []
            taken.append(at - 1)
        return taken

    # For each word: the run after it -> the run where the words before end, and the runs of the word.
    ways: list[dict[int, tuple[int, list[int]]]] = []
    ends = {0}
    for number in words:
        way: dict[int, tuple[int, list[int]]] = {}
        for end in sorted(ends):
            begin = end + (separator is not None and end < len(tokens) and tokens[end] == separator)
            for spelling in graph.lexicon.spellings[graph.lexicon.words[number]]:
                if taken := take(begin, spelling, len(ways) == len(words) - 1):
                    way.setdefault(taken[-1] + 1, (end, taken))
        ways.append(way)
        ends = set(way)
    if not ends:  # an error in the graph or in a backend
        raise ValueError("the words cannot be spelled by the alignment")
    end, found = max(ends), []
    for way in reversed(ways):
        end, taken = way[end]
        found.append(taken)
    return found[::-1]
