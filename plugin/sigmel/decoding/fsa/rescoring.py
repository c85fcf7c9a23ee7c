"""A better language model for what a smaller one has found: over n-best lists, or over whole lattices.

icefall calls them the n-best and the whole-lattice method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sigmel.decoding.fsa.arpa import NGramModel
from sigmel.decoding.fsa.hypothesis import Hypothesis
from sigmel.decoding.fsa.lattice import Lattice
from sigmel.decoding.fsa.openfst import composed, without_epsilons
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


def rescored_lattice(
    lattice: Lattice, model: NGramModel, beam: float, scale: float = 1.0, keep: float = 0.0
) -> Lattice:
    """A lattice with an n-gram model's scores instead of, or beside, those of the graph that was decoded with.

    Args:
        lattice: the paths of an utterance.
        model: the language model; it may back off where it need not, as in a graph.
        beam: how much worse than the best a path of the result may be.
        scale: what the language model's scores are multiplied with.
        keep: what the scores of the graph are multiplied with.

    Raises:
        SigmelError: the model knows none of the sentences.
    """
    names = lattice.source.lexicon.words
    known = set(model.words)
    numbers = {word: number for number, word in enumerate(names) if word in known}
    backoff = len(names)
    language = model.to_graph(numbers, backoff)
    silent = np.where(language.label == backoff, 0, language.label).astype(np.int32)
    language = replace(
        language, label=silent, aux=silent, score=scale * language.score, final=np.float32(scale) * language.final
    )
    final = lattice.paths.final.copy()
    final[np.isfinite(final)] *= np.float32(keep)
    paths = replace(lattice.paths, score=np.float32(keep) * lattice.graph_score, final=final)
    found = without_epsilons(composed(paths, language))
    return Lattice.canonical(lattice.source, lattice.log_probs, found, beam, lattice.complete)
