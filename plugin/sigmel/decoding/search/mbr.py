"""Minimum Bayes risk: the words with the fewest expected errors, and how sure each of them is.

Xu, Povey, Mangu and Zhu, "Minimum Bayes risk decoding and system combination based on a recursion for edit distance"
(Computer Speech & Language, 2011), sections 4 to 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.graph import EPSILON, Graph
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.lattice import Lattice
from sigmel.decoding.search.word_search import tree

_SKIP = 1e-5  # a word against nothing costs this much more, so that among equal alignments the one of words counts


@dataclass(frozen=True)
class Slot:
    """One place of a sausage.

    Attributes:
        word: the most probable word there; "" where it is none.
        confidence: its probability.
        others: every word with its probability, the most probable first; "" is no word.
    """

    word: str
    confidence: float
    others: Mapping[str, float]


def sausage(lattice: Lattice, scale: float = 1.0, n: int = 200) -> list[Slot]:
    """The words of minimum Bayes risk, slot by slot, the slots of no word among them.

    Args:
        lattice: the paths of an utterance.
        n: of how many sequences of words, the best, the risk is computed.
        scale: what scores are multiplied with; below 1 for models that are too sure of themselves.
    """
    names = lattice.source.lexicon.words
    words = tree(list(islice(lattice.scaled(scale).sequences(), n)))
    best = [names.index(word.name) for word in lattice.best().words]
    risk = np.inf
    while True:  # every round lowers the risk, and there are finitely many sequences
        found, slots = expected_errors(words, _with_gaps(best))
        if found >= risk - 1e-6:
            break
        risk, kept = found, slots
        best = [word for word in (max(slot, key=lambda w: (slot[w], -w)) for slot in slots) if word != EPSILON]
    said = [sorted(slot.items(), key=lambda item: (-item[1], item[0])) for slot in kept]
    return [
        Slot(_name(names, slot[0][0]), slot[0][1], {_name(names, word): share for word, share in slot})
        for slot in said
        if slot[0][0] != EPSILON or len(slot) > 1
    ]


def confidences(lattice: Lattice, hypothesis: Hypothesis, scale: float = 1.0, n: int = 200) -> list[float]:
    """The probability of each word of a hypothesis in its place.

    Args:
        lattice: the paths of the utterance.
        hypothesis: words of its.
        scale, n: see `sausage`.
    """
    names = lattice.source.lexicon.words
    said = [names.index(word.name) for word in hypothesis.words]
    _, slots = expected_errors(tree(list(islice(lattice.scaled(scale).sequences(), n))), said)
    return [min(1.0, float(slot.get(word, 0.0))) for word, slot in zip(said, slots, strict=True)]  # sums are rounded


def expected_errors(words: Graph, reference: Sequence[int]) -> tuple[float, list[dict[int, float]]]:
    """The expected number of word errors of a sequence, and what is said at each of its places.

    Args:
        words: an acceptor without epsilons or cycles; the scores of its paths are logarithms of their shares.
        reference: words and epsilons.

    Returns:
        The expected edit distance, and word -> probability for each place of ``reference``.
    """
    order, incoming = _topological(words)
    forward = np.full(words.num_states, -np.inf)
    forward[0] = 0.0
    places = len(reference)
    against = np.array([float(word != EPSILON) for word in reference])  # what leaving out a place costs
    cost = np.zeros((words.num_states, places + 1))
    cost[0, 1:] = np.cumsum(against)
    through: dict[int, NDArray] = {}
    for state in order:
        arcs = incoming[state]
        if not len(arcs):
            continue
        total = np.logaddexp.reduce(forward[words.src[arcs]] + words.score[arcs])
        forward[state] = total
        for arc in arcs:
            share = np.exp(forward[words.src[arc]] + words.score[arc] - total)
            through[arc] = _errors(cost[words.src[arc]], int(words.label[arc]), reference, against)
            cost[state] += share * through[arc]
    ends = np.flatnonzero(np.isfinite(words.final))
    everything = np.logaddexp.reduce(forward[ends] + words.final[ends])
    share_of_end = np.exp(forward[ends] + words.final[ends] - everything)
    risk = float(share_of_end @ cost[ends, places])

    slots: list[dict[int, float]] = [{} for _ in reference]
    weight = np.zeros((words.num_states, places + 1))
    weight[ends, places] = share_of_end
    for state in reversed(order):
        for arc in incoming[state]:
            src, word = words.src[arc], int(words.label[arc])
            share = np.exp(forward[src] + words.score[arc] - forward[state])
            here = share * weight[state]
            if here.any():
                _trace(here, cost[src], through[arc], word, reference, against, weight[src], slots)
    left = np.cumsum(weight[0][::-1])[::-1]  # what is still to be read at the start was not said
    for place in range(places):
        slots[place][EPSILON] = slots[place].get(EPSILON, 0.0) + left[place + 1]
    return risk, [{word: share for word, share in slot.items() if share > 1e-6} for slot in slots]


def _errors(before: NDArray, word: int, reference: Sequence[int], against: NDArray) -> NDArray:
    """The expected distances after an arc, from those before it, to each beginning of the reference."""
    after = np.empty_like(before)
    after[0] = before[0] + 1.0 + _SKIP
    for place, (other, skip) in enumerate(zip(reference, against, strict=True)):
        said = before[place] + (0.0 if word == other else 1.0 + (_SKIP if other == EPSILON else 0.0))
        after[place + 1] = min(said, before[place + 1] + 1.0 + _SKIP, after[place] + skip)
    return after


def _trace(
    here: NDArray,
    before: NDArray,
    after: NDArray,
    word: int,
    reference: Sequence[int],
    against: NDArray,
    source: NDArray,
    slots: list[dict[int, float]],
) -> None:
    """Carry probabilities back over an arc, and note what is said at each place."""
    for place in range(len(reference), 0, -1):
        if not here[place]:
            continue
        other = reference[place - 1]
        said = before[place - 1] + (0.0 if word == other else 1.0 + (_SKIP if other == EPSILON else 0.0))
        slot = slots[place - 1]
        if after[place] == said:
            slot[word] = slot.get(word, 0.0) + here[place]
            source[place - 1] += here[place]
        elif after[place] == before[place] + 1.0 + _SKIP:
            source[place] += here[place]
        else:
            slot[EPSILON] = slot.get(EPSILON, 0.0) + here[place]
            here[place - 1] += here[place]
    source[0] += here[0]


def oracle(lattice: Lattice, reference: Sequence[str]) -> int:
    """The fewest word errors that any path of a lattice has.

    Args:
        lattice: the paths of an utterance.
        reference: the words that were said.
    """
    names = {word: number for number, word in enumerate(lattice.source.lexicon.words)}
    said = np.array([names.get(word, -1) for word in reference])
    paths, places = lattice.paths, np.arange(len(said) + 1)
    cost = np.full((paths.num_states, len(places)), np.inf)
    cost[0] = places
    bounds = np.searchsorted(lattice.frame[paths.src], np.arange(len(lattice.log_probs) + 1))
    for begin, end in pairwise(bounds):
        before, word = cost[paths.src[begin:end]], paths.aux[begin:end, None]
        spoken = before + 1.0
        spoken[:, 1:] = np.minimum(spoken[:, 1:], before[:, :-1] + (word != said))
        after = np.where(word == EPSILON, before, spoken)
        # Words of the reference that are left out: whatever was the cheapest place before, and one for each since.
        after = np.minimum.accumulate(after - places, axis=1) + places
        np.minimum.at(cost, paths.dst[begin:end], after)
    return int(cost[np.isfinite(paths.final), -1].min())


def _topological(words: Graph) -> tuple[list[int], list[NDArray]]:
    """States in an order in which arcs lead onward, and the arcs that enter each."""
    order_of_arcs = np.argsort(words.dst, kind="stable")
    bounds = np.searchsorted(words.dst[order_of_arcs], np.arange(words.num_states + 1))
    incoming = [order_of_arcs[bounds[state] : bounds[state + 1]] for state in range(words.num_states)]
    missing = np.diff(bounds)
    ready, order, starts = [0], [], words.arcs_of()
    while ready:
        state = ready.pop()
        order.append(state)
        for dst in words.dst[starts[state] : starts[state + 1]].tolist():
            missing[dst] -= 1
            if not missing[dst]:
                ready.append(dst)
    return order, incoming


def _with_gaps(words: Sequence[int]) -> list[int]:
    """Words with places between them where something may have been said."""
    return [EPSILON, *(one for word in words for one in (word, EPSILON))]


def _name(names: Sequence[str], word: int) -> str:
    return names[word] if word != EPSILON else ""
