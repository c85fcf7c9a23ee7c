"""Small n-gram language models by interpolated modified Kneser-Ney smoothing.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (Computer Speech & Language,
1999), sections 4.1.6 and 5. For billions of words take KenLM's ``lmplz``; its ARPA files are read like ours.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from sigmel.decoding.graph.arpa import BEGIN, END, UNKNOWN, NGram, NGramModel
from sigmel.errors import SigmelError

# Discounts of n-grams seen once, twice, more often, where there is too little text to estimate them.
FALLBACK = (0.5, 1.0, 1.5)


def train_ngrams(sentences: Iterable[Sequence[str]], order: int = 3) -> NGramModel:
    """Train a language model.

    Args:
        sentences: the words of each.
        order: the number of words of the longest n-grams.

    Raises:
        SigmelError: no word at all, an order below 1, or a word that has a meaning of its own in a model.
    """
    if order < 1:
        raise SigmelError(f"order: {order} must be at least 1")
    counts: list[Counter[NGram]] = [Counter() for _ in range(order)]
    for number, words in enumerate(sentences, 1):
        if special := {BEGIN, END, UNKNOWN} & set(words):
            raise SigmelError(f"sentence {number}: {special.pop()!r} cannot be a word")
        said = (BEGIN, *words, END)
        for n, found in enumerate(counts, 1):
            found.update(said[at : at + n] for at in range(len(said) - n + 1))
    del counts[0][BEGIN,]  # is never predicted
    if not counts[0]:
        raise SigmelError("there is no sentence to train on")

    model: list[dict[NGram, tuple[float, float]]] = []
    size = len(counts[0]) + 1  # with the unknown word
    shorter: dict[NGram, float] = {(): 1 / size}
    for n in range(1, order + 1):
        seen = counts[n - 1] if n == order else _continuations(counts[n - 1], counts[n])
        left, share = _backoff(seen)
        here = {}
        for ngram, count in seen.items():
            history = ngram[:-1]
            here[ngram] = share(history, count) + left[history] * shorter[ngram[1:] if n > 1 else ()]
        if n == 1:
            here[UNKNOWN,] = left[()] / size
        else:
            model[-1] = {ngram: (found[0], math.log(left.get(ngram, 1.0))) for ngram, found in model[-1].items()}
        model.append({ngram: (math.log(probability), 0.0) for ngram, probability in here.items()})
        if n == 1 and order > 1:
            model[0][BEGIN,] = (-math.inf, 0.0)
        shorter = here
    return NGramModel(model)


def _continuations(counts: Counter[NGram], longer: Counter[NGram]) -> Counter[NGram]:
    """After how many different words each n-gram was seen; how often, if it begins a sentence."""
    found: Counter[NGram] = Counter(ngram[1:] for ngram in longer)
    return Counter({ngram: count if ngram[0] == BEGIN else found[ngram] for ngram, count in counts.items()})


def _backoff(seen: Counter[NGram]) -> tuple[dict[NGram, float], Callable[[NGram, int], float]]:
    """What each history leaves to shorter ones, and the share of an n-gram of a history and a count."""
    discounts = _discounts(seen.values())
    total: dict[NGram, int] = defaultdict(int)
    taken: dict[NGram, float] = defaultdict(float)
    for ngram, count in seen.items():
        total[ngram[:-1]] += count
        taken[ngram[:-1]] += discounts[min(count, 3) - 1]

    def share(history: NGram, count: int) -> float:
        return (count - discounts[min(count, 3) - 1]) / total[history]

    return {history: taken[history] / total[history] for history in total}, share


def _discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """What to take from counts of one, of two and of more."""
    times = Counter(counts)
    if not all(times[count] for count in (1, 2, 3, 4)):
        return FALLBACK
    base = times[1] / (times[1] + 2 * times[2])
    one, two, more = (count - (count + 1) * base * times[count + 1] / times[count] for count in (1, 2, 3))
    return (one, two, more) if 0 < one < 1 and 0 < two < 2 and 0 < more < 3 else FALLBACK
