"""Minimum Bayes risk: the words with the fewest expected errors, and the confidence in each of them.

Xu, Povey, Mangu and Zhu, "Minimum Bayes risk decoding and system combination based on a recursion for edit distance"
(Computer Speech & Language, 2011), sections 4 to 6, over the best sequences of words of a lattice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from sigmel.decoding.graph.graph import EPSILON
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.lattice import Lattice, WordSequence

# Costs of an alignment. A word against nothing costs a little more than one against another word, so that among
# alignments with equally many errors the one with more pairs of words counts.
_ERROR, _SKIP = 100_000, 1


@dataclass(frozen=True)
class Slot:
    """A place in a sausage.

    Attributes:
        word: the most probable word; "" for no word.
        confidence: probability of `word`.
        others: every word with its probability, the most probable first; "" for no word.
    """

    word: str
    confidence: float
    others: Mapping[str, float]


def sausage(lattice: Lattice, scale: float = 1.0, n: int = 200) -> list[Slot]:
    """The words of minimum Bayes risk, slot by slot, including slots in which no word is most probable.

    Args:
        lattice: the paths of an utterance.
        scale: factor of the scores; below 1 for overconfident models.
        n: how many of the best word sequences the risk is taken over.
    """
    lexicon = lattice.source.lexicon
    sequences = list(islice(lattice.scaled(scale).sequences(), n))
    best = [lexicon.numbers[word.name] for word in lattice.best().words]
    risk = np.inf
    while True:  # every round lowers the risk, and there are finitely many sequences
        with_gaps = [EPSILON, *(number for word in best for number in (word, EPSILON))]
        lower, slots = expected_errors(sequences, with_gaps)
        if lower >= risk - 1e-6:
            break
        risk, kept = lower, slots
        best = [word for word in (max(slot, key=lambda w: (slot[w], -w)) for slot in slots) if word != EPSILON]
    names = ("", *lexicon.words[1:])
    ranked = [sorted(slot.items(), key=lambda item: (-item[1], item[0])) for slot in kept]
    return [
        Slot(names[slot[0][0]], slot[0][1], {names[word]: share for word, share in slot})
        for slot in ranked
        if slot[0][0] != EPSILON or len(slot) > 1
    ]


def confidences(lattice: Lattice, hypothesis: Hypothesis, scale: float = 1.0, n: int = 200) -> list[float]:
    """The probability of each word of a hypothesis in its place.

    Args:
        lattice: the paths of the utterance.
        hypothesis: a path of the lattice.
        scale, n: see `sausage`.
    """
    said = [lattice.source.lexicon.numbers[word.name] for word in hypothesis.words]
    _, slots = expected_errors(list(islice(lattice.scaled(scale).sequences(), n)), said)
    return [min(1.0, slot.get(word, 0.0)) for word, slot in zip(said, slots, strict=True)]  # sums are rounded


def expected_errors(
    sequences: Sequence[WordSequence], reference: Sequence[int]
) -> tuple[float, list[dict[int, float]]]:
    """The expected number of word errors of a reference, and the words that are said at each of its places.

    Args:
        sequences: what may have been said; the shares of the sequences are their sums over all paths.
        reference: numbers of words, and epsilons where a word may have been left out.

    Returns:
        The expected edit distance, and word -> probability for each place of `reference`.
    """
    total = np.array([sequence.total for sequence in sequences])
    share = np.exp(total - np.logaddexp.reduce(total))
    count = np.array([len(sequence.words) for sequence in sequences])
    words = np.zeros((len(count), count.max() + 1), np.int64)  # (N, W)
    for row, sequence in enumerate(sequences):
        words[row, : count[row]] = sequence.words
    places = np.asarray(reference, np.int64)  # (P,)

    # cost[i, n, p]: of aligning the first i words of sequence n with the first p places.
    left_out = np.append(0, np.cumsum(np.where(places == EPSILON, 0, _ERROR)))
    cost = np.zeros((words.shape[1], len(count), len(places) + 1), np.int64)
    cost[0] = left_out
    instead = (words[:, :, None] != places) * (_ERROR + _SKIP * (places == EPSILON))  # (N, W, P) a word in a place
    for i in range(count.max()):
        after = cost[i] + _ERROR + _SKIP
        after[:, 1:] = np.minimum(after[:, 1:], cost[i, :, :-1] + instead[:, i])
        cost[i + 1] = np.minimum.accumulate(after - left_out, axis=1) + left_out
    rows = np.arange(len(count))
    risk = float(share @ cost[count, rows, -1]) / _ERROR

    # Back along the best alignments, all sequences at once: `at` words are still to be placed.
    slots: list[dict[int, float]] = []
    at = count
    for place in reversed(range(len(places))):
        while True:
            here, before = cost[at, rows, place + 1], at - 1
            paired = (at > 0) & (here == cost[before, rows, place] + instead[rows, before, place])
            extra = (at > 0) & ~paired & (here == cost[before, rows, place + 1] + _ERROR + _SKIP)
            if not extra.any():
                break
            at = at - extra
        said, which = np.unique(np.where(paired, words[rows, before], EPSILON), return_inverse=True)
        slots.append(dict(zip(said.tolist(), np.bincount(which, share).tolist(), strict=True)))
        at = at - paired
    return risk, [{word: part for word, part in slot.items() if part > 1e-6} for slot in reversed(slots)]


def oracle(lattice: Lattice, reference: Sequence[str]) -> int:
    """The fewest word errors that any path of a lattice has.

    Args:
        lattice: the paths of an utterance.
        reference: the words that were said.
    """
    said = np.array([lattice.source.lexicon.numbers.get(word, -1) for word in reference])
    paths, places = lattice.paths, np.arange(len(said) + 1)
    cost = np.full((paths.num_states, len(places)), np.inf)
    cost[0] = places
    for arcs in lattice.arcs_by_frame():
        before, word = cost[paths.src[arcs]], paths.aux[arcs, None]
        spoken = before + 1.0
        spoken[:, 1:] = np.minimum(spoken[:, 1:], before[:, :-1] + (word != said))
        after = np.where(word == EPSILON, before, spoken)
        # Leaving out words of the reference: the cheapest earlier place, and one error for each word since.
        after = np.minimum.accumulate(after - places, axis=1) + places
        np.minimum.at(cost, paths.dst[arcs], after)
    return int(cost[np.isfinite(paths.final), -1].min())
