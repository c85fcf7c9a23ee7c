"""Definitions to check against: every path of a small graph, every sequence of frames."""

import itertools
import math
from collections import defaultdict
from types import SimpleNamespace

import pytest


def _paths(graph, labels):
    """What each path writes that reads ``labels`` (epsilons aside), with its score; few epsilons are followed."""
    arcs = defaultdict(list)
    for arc in zip(graph.src, graph.dst, graph.label, graph.aux, graph.score, strict=True):
        arcs[int(arc[0])].append(arc[1:])
    found = []

    def walk(state, at, written, score, silent):
        if at == len(labels) and math.isfinite(graph.final[state]):
            found.append((written, score + float(graph.final[state])))
        for dst, label, aux, weight in arcs[state]:
            said = (*written, int(aux)) if aux else written
            if label == 0 and silent < 4:
                walk(int(dst), at, said, score + float(weight), silent + 1)
            elif at < len(labels) and label == labels[at]:
                walk(int(dst), at + 1, said, score + float(weight), 0)

    walk(0, 0, (), 0.0, 0)
    return found


def _best_paths(graph, labels):
    """The best score of everything that can be written when ``labels`` are read."""
    best = {}
    for written, score in _paths(graph, labels):
        best[written] = max(score, best.get(written, -math.inf))
    return best


def _collapse(frames, blank, topology):
    """The sets of token sequences that frames may spell."""
    if topology == "minimal":
        return {tuple(token for token in frames if token != blank)}
    found = set()
    runs = [(token, len(list(group))) for token, group in itertools.groupby(frames)]
    runs = [(token, count) for token, count in runs if token != blank]
    # With the compact topology a run may be as many equal tokens as it has frames.
    choices = [range(1, count + 1) if topology == "compact" else (1,) for _, count in runs]
    for counts in itertools.product(*choices):
        found.add(tuple(token for (token, _), n in zip(runs, counts, strict=True) for _ in range(n)))
    return found


@pytest.fixture(scope="session")
def brute_force():
    """`paths`, `best_paths` and `collapse`."""
    return SimpleNamespace(paths=_paths, best_paths=_best_paths, collapse=_collapse)
