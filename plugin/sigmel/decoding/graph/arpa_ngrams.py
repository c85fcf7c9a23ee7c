"""Back-off n-gram language models: training, reading and writing ARPA files, and the acceptor G.

Small models are trained by interpolated modified Kneser-Ney smoothing: Chen and Goodman, "An empirical study of
smoothing techniques for language modeling" (Computer Speech & Language, 1999), sections 4.1.6 and 5. For billions of
words use KenLM's `lmplz`, whose ARPA files are read like ours.
"""

from __future__ import annotations

import gzip
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sigmel.decoding.graph.graph import Graph, GraphBuilder
from sigmel.errors import SigmelError, reading
from sigmel.files.atomic import atomic_path

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
NGram = tuple[str, ...]
# Discounts of n-grams seen once, twice and more often, for texts too small to estimate discounts.
FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class NGramModel:
    """A back-off language model.

    Attributes:
        ngrams: for each order, n-gram -> (natural logarithm of the probability of the last word after the others,
            natural logarithm of the weight for backing off from this n-gram as a history).
    """

    ngrams: Sequence[Mapping[NGram, tuple[float, float]]]

    @property
    def order(self) -> int:
        """The number of words of the longest n-grams."""
        return len(self.ngrams)

    @property
    def words(self) -> list[str]:
        """The words of the model, without the marks of sentence ends and the unknown word."""
        return [word for (word,) in self.ngrams[0] if word not in (BEGIN, END, UNKNOWN)]

    def score(self, word: str, history: NGram) -> float:
        """The logarithm of the probability of a word after others; an unknown word counts as `<unk>`.

        Args:
            word: the word; `</s>` for the end of a sentence.
            history: the words before, beginning with `<s>` at the start of a sentence.
        """
        if (word,) not in self.ngrams[0]:
            word = UNKNOWN
        history = history[len(history) - self.order + 1 :] if len(history) >= self.order else history
        total = 0.0
        while True:
            found = self.ngrams[len(history)].get((*history, word))
            if found is not None:
                return total + found[0]
            if not history:
                return -math.inf
            total += self.ngrams[len(history) - 1].get(history, (0.0, 0.0))[1]
            history = history[1:]

    def score_sentence(self, words: Sequence[str]) -> float:
        """The logarithm of the probability of a sentence, including its end."""
        said = (BEGIN, *words, END)
        return sum(self.score(said[at], said[:at]) for at in range(1, len(said)))

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """The acceptor G of words, with one state for each history; arcs that read `backoff` drop its first word.

        n-grams with words that `numbers` lacks are left out.

        Args:
            numbers: the number of each word.
            backoff: the number for backing off.
        """
        states: dict[NGram, int] = {}
        if self.order > 1:
            states[BEGIN,] = 0
        states.setdefault((), len(states))
        for ngrams in self.ngrams[:-1]:
            for ngram in ngrams:
                if all(word in numbers for word in ngram[1:]) and (ngram[0] in numbers or ngram[0] == BEGIN):
                    states.setdefault(ngram, len(states))

        def longest(history: NGram) -> int:
            """The state of the longest known end of a history."""
            while history not in states:
                history = history[1:]
            return states[history]

        builder = GraphBuilder()
        builder.final = [-math.inf] * len(states)
        for ngrams in self.ngrams:
            for ngram, (probability, _) in ngrams.items():
                state, word = states.get(ngram[:-1]), ngram[-1]
                if state is None or probability == -math.inf:
                    continue
                if word == END:
                    builder.final[state] = probability
                elif word in numbers:
                    builder.add_arc(state, longest(ngram), numbers[word], score=probability)
        for history, state in states.items():
            if history and (weight := self.ngrams[len(history) - 1][history][1]) > -math.inf:
                builder.add_arc(state, longest(history[1:]), backoff, score=weight)
        return builder.graph()


def read_arpa(path: Path) -> NGramModel:
    r"""Read an ARPA file (plain or .gz).

    Raises:
        SigmelError: the file is not an ARPA file: no `\data\`, a malformed line, counts that disagree with the
            n-grams, or an n-gram whose history is missing; the message has the number of the line.
    """
    opened = gzip.open if Path(path).suffix == ".gz" else open
    with reading(Path(path), "an ARPA file"), opened(path, "rt", encoding="utf-8") as file:
        return _parse(path, enumerate((line.strip() for line in file), 1))


def _parse(path: Path, lines: Iterator[tuple[int, str]]) -> NGramModel:
    def wrong(at: int, message: str) -> SigmelError:
        return SigmelError(f"{path}:{at}: {message}")

    at = 0
    if not any(line == "\\data\\" for _, line in lines):
        raise SigmelError(f"{path}: not an ARPA file: there is no line \\data\\")
    counts: list[int] = []
    models: list[dict[NGram, tuple[float, float]]] = []
    for at, line in lines:
        if not line:
            continue
        section = re.fullmatch(r"\\(\d+)-grams:", line)
        ended = line == "\\end\\"
        if (section or ended) and models and len(models[-1]) != (count := counts[len(models) - 1]):
            found = f"there are {len(models[-1])} different ones"
            raise wrong(at, f"\\data\\ promises {count} {len(models)}-grams, but {found}")
        if ended:
            if not models or len(models) < len(counts):
                raise wrong(at, f"\\data\\ promises {len(counts)} orders, but there are {len(models)}")
            return NGramModel(models)
        if section:
            if int(section[1]) != len(models) + 1 or len(models) == len(counts):
                raise wrong(at, f"{line} is not expected here; \\data\\ promises orders 1 to {len(counts)}")
            models.append({})
        elif not models:
            promised = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line)
            if not promised or int(promised[1]) != len(counts) + 1:
                raise wrong(at, f"{line!r} is not 'ngram {len(counts) + 1}=<count>'")
            counts.append(int(promised[2]))
        else:
            order = len(models)
            fields = line.split()
            try:
                probability = float(fields[0]) * math.log(10)
                weight = float(fields[order + 1]) * math.log(10) if len(fields) == order + 2 else 0.0
            except ValueError:
                raise wrong(at, f"{line!r} has no number where a number is due") from None
            if len(fields) not in (order + 1, order + 2) or math.isnan(probability) or math.isnan(weight):
                raise wrong(at, f"{line!r} is no {order}-gram: a number, {order} words and perhaps a number")
            if probability > 1e-4 or weight == math.inf:
                raise wrong(at, f"{line!r}: the logarithm of a probability is at most 0")
            ngram = tuple(fields[1 : order + 1])
            if order > 1 and ngram[:-1] not in models[-2]:
                raise wrong(at, f"{' '.join(ngram)!r}: its history {' '.join(ngram[:-1])!r} is no {order - 1}-gram")
            # SRILM and KenLM give -99 or 0 for <s>, whose probability is never used.
            models[-1][ngram] = (-math.inf if fields[0] == "-99" else min(probability, 0.0), weight)
    raise wrong(at, "the file ends before \\end\\")


def write_arpa(model: NGramModel, path: Path) -> None:
    """Write a model as an ARPA file."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={len(ngrams)}\n" for order, ngrams in enumerate(model.ngrams, 1))
        for order, ngrams in enumerate(model.ngrams, 1):
            file.write(f"\n\\{order}-grams:\n")
            for ngram, (probability, weight) in ngrams.items():
                back = f"\t{weight / math.log(10):.7g}" if order < model.order and weight else ""
                file.write(f"{max(probability / math.log(10), -99):.7g}\t{' '.join(ngram)}{back}\n")
        file.write("\n\\end\\\n")


def train_ngrams(sentences: Iterable[Sequence[str]], order: int = 3) -> NGramModel:
    """Train a language model.

    Args:
        sentences: the words of each sentence.
        order: the number of words of the longest n-grams.

    Raises:
        SigmelError: there is no word, `order` is below 1, or a word is `<s>`, `</s>` or `<unk>`.
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
    del counts[0][BEGIN,]  # <s> is never predicted
    if not counts[0]:
        raise SigmelError("there is no sentence to train on")

    model: list[dict[NGram, tuple[float, float]]] = []
    size = len(counts[0]) + 1  # with the unknown word
    shorter: dict[NGram, float] = {(): 1 / size}
    for n in range(1, order + 1):
        seen = counts[n - 1] if n == order else _continuations(counts[n - 1], counts[n])
        discounts = _discounts(seen.values())
        total: Counter[NGram] = Counter()
        taken: dict[NGram, float] = defaultdict(float)
        for ngram, count in seen.items():
            total[ngram[:-1]] += count
            taken[ngram[:-1]] += discounts[min(count, 3) - 1]
        left = {history: taken[history] / total[history] for history in total}  # for shorter histories
        here = {}
        for ngram, count in seen.items():
            share = (count - discounts[min(count, 3) - 1]) / total[ngram[:-1]]
            here[ngram] = share + left[ngram[:-1]] * shorter[ngram[1:]]
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
    """The number of different words before each n-gram; the count of an n-gram that begins a sentence."""
    found: Counter[NGram] = Counter(ngram[1:] for ngram in longer)
    return Counter({ngram: count if ngram[0] == BEGIN else found[ngram] for ngram, count in counts.items()})


def _discounts(counts: Iterable[int]) -> tuple[float, float, float]:
    """The discounts of counts of one, of two and of more, by their closed form."""
    times = Counter(counts)
    if not all(times[count] for count in (1, 2, 3, 4)):
        return FALLBACK
    base = times[1] / (times[1] + 2 * times[2])
    once, twice, more = (count - (count + 1) * base * times[count + 1] / times[count] for count in (1, 2, 3))
    return (once, twice, more) if 0 < once < 1 and 0 < twice < 2 and 0 < more < 3 else FALLBACK
