"""A better language model for what a smaller one has found: over n-best lists, or over whole lattices.

icefall calls them the n-best and the whole-lattice method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sigmel.decoding.graph.arpa import NGramModel
from sigmel.decoding.graph.graph import EPSILON
from sigmel.decoding.graph.openfst import composed, reader, without_epsilons
from sigmel.decoding.search.hypothesis import Hypothesis
from sigmel.decoding.search.lattice import Lattice
from sigmel.errors import SigmelError


def rescored_nbest(
    hypotheses: Sequence[Hypothesis],
    scores: Callable[[list[list[str]]], Sequence[float]],
    scale: float = 1.0,
    keep: float = 0.0,
) -> list[Hypothesis]:
    """Hypotheses in the order of a language model's opinion and the recogniser's together.

    Args:
        hypotheses: see `Lattice.nbest`.
        scores: the logarithm of the probability of each of some sentences, given as words: an n-gram model's
            ``lambda texts: map(model.score_sentence, texts)``, or a neural model, which gets all at once.
        scale: what the language model's scores are multiplied with.
        keep: what the scores of the graph that was decoded with are multiplied with.

    Raises:
        SigmelError: as many scores as sentences are due.
    """
    found = list(scores([[word.name for word in one.words] for one in hypotheses]))
    if len(found) != len(hypotheses):
        raise SigmelError(f"the language model gave {len(found)} scores for {len(hypotheses)} sentences")
    again = []
    for one, score in zip(hypotheses, found, strict=True):
        graph_score = keep * one.graph_score + scale * float(score)
        again.append(replace(one, score=one.score - one.graph_score + graph_score, graph_score=graph_score))
    return sorted(again, key=lambda one: (-one.score, one.text))


class LatticeRescorer:
    """Gives lattices an n-gram model's scores instead of, or beside, those of the graph that was decoded with.

    Args:
        model: the language model; it may back off where it need not, as in a graph.
        names: the words of the graph, see `Lexicon.words`.
        scale: what the language model's scores are multiplied with.
        keep: what the scores of the graph are multiplied with.

    Raises:
        SigmelError: the model lacks words of the graph.
    """

    def __init__(self, model: NGramModel, names: Sequence[str], scale: float = 1.0, keep: float = 0.0) -> None:
        known = set(model.words)
        if missing := [name for name in names[1:] if name not in known]:
            some = ", ".join(missing[:5])
            raise SigmelError(f"the language model to rescore with lacks {len(missing)} words of the graph: {some}")
        backoff = len(names)
        language = model.to_graph({name: number for number, name in enumerate(names) if number}, backoff)
        silent = np.where(language.label == backoff, EPSILON, language.label).astype(np.int32)
        self._language = reader(replace(language, label=silent, aux=silent).scaled(scale))
        self._keep = keep

    def __call__(self, lattice: Lattice, beam: float) -> Lattice:
        """Rescore a lattice.

        Args:
            lattice: the paths of an utterance.
            beam: how much worse than the best a path of the result may be.
        """
        paths = lattice.graph.scaled(self._keep)
        found = without_epsilons(composed(paths, self._language))
        return Lattice.canonical(lattice.source, lattice.log_probs, found, beam, lattice.complete)
