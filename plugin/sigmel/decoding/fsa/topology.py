"""CTC topologies: from a graph that reads tokens to one that reads a token or a blank in every frame.

A topology H says which frames spell a sequence of tokens. Composing it with a graph of arcs (S states, A arcs, P
different pairs of a state and a token on arcs to it) is done here by numbering, without building H:

========  ==================================================  =====================================================
topology  a token is                                          states, arcs
========  ==================================================  =====================================================
standard  one or more frames; a blank parts equal neighbours  S + P, at most S + A + 2 P + sum over P of arcs onward
compact   one or more frames                                  S + P, S + 2 A + 2 P
minimal   one frame                                           S, S + A
========  ==================================================  =====================================================

Blanks may stand anywhere between tokens. The standard one is that of CTC (Graves et al., "Connectionist temporal
classification", ICML 2006), the others leave out what makes it large (Laptev, Majumdar and Ginsburg, "CTC variations
through new WFST topologies", Interspeech 2022). Where each of V tokens may follow each, the standard one has V * V
arcs, which is why its size is checked before it is made.
"""

from __future__ import annotations

import numpy as np

from sigmel.decoding.fsa.graph import EPSILON, Graph, ranges
from sigmel.errors import SigmelError

TOPOLOGIES = ("standard", "compact", "minimal")
MAX_ARCS = 20_000_000  # about 1 GB while it is made


def expand(graph: Graph, blank: int, topology: str = "standard", max_arcs: int = MAX_ARCS) -> Graph:
    """Compose a CTC topology with a graph.

    Args:
        graph: reads tokens, one an arc and neither epsilon nor the blank.
        blank: the model's number of the blank; any.
        topology: one of `TOPOLOGIES`.
        max_arcs: how many arcs the result may have.

    Returns:
        A graph that reads one label in every frame and has no epsilon; what it writes and its scores are ``graph``'s.

    Raises:
        SigmelError: an unknown topology, an arc that reads epsilon or the blank, or too large a result.
    """
    if topology not in TOPOLOGIES:
        raise SigmelError(f"topology {topology!r} is unknown; one of {', '.join(TOPOLOGIES)}")
    if np.any(graph.label == EPSILON):
        raise SigmelError(f"graph: {np.sum(graph.label == EPSILON)} arcs read nothing; remove epsilons first")
    if np.any(graph.label == blank + 1):
        raise SigmelError(f"graph: {np.sum(graph.label == blank + 1)} arcs read the blank, token {blank}")
    states = np.arange(graph.num_states)
    blanks = np.full(graph.num_states, blank + 1)
    # Every part is (src, dst, label, arc), where arc is the arc of `graph` whose output and score it has, -1 for none.
    waiting = (states, states, blanks, None)
    if topology == "minimal":
        return _assemble(graph, graph.final, [waiting, (graph.src, graph.dst, graph.label, np.arange(graph.num_arcs))])

    width = int(graph.label.max(initial=0)) + 1
    pairs, entered = np.unique(graph.dst.astype(np.int64) * width + graph.label, return_inverse=True)
    there, token = pairs // width, pairs % width  # what comes after a token, and the token
    own = graph.num_states + np.arange(len(pairs))  # the states of "this token was in the last frame"
    arcs = np.arange(graph.num_arcs)
    begin = (graph.src, own[entered], graph.label, arcs)
    stay = (own, own, token, None)
    if topology == "compact":
        _check_size(graph.num_states + 2 * graph.num_arcs + 2 * len(pairs), topology, max_arcs)
        parts = [waiting, begin, (graph.src, graph.dst, graph.label, arcs), stay, (own, there, token, None)]
        return _assemble(graph, np.concatenate([graph.final, np.full(len(pairs), -np.inf)]), parts)

    starts = graph.arcs_of()
    onward = np.diff(starts)[there]
    _check_size(graph.num_states + graph.num_arcs + 2 * len(pairs) + int(onward.sum()), topology, max_arcs)
    pair = np.repeat(np.arange(len(pairs)), onward)
    arc = ranges(starts[there], onward)
    other = graph.label[arc] != token[pair]
    pair, arc = pair[other], arc[other]
    follow = (own[pair], own[entered[arc]], graph.label[arc], arc)
    pause = (own, there, np.full(len(pairs), blank + 1), None)
    return _assemble(graph, np.concatenate([graph.final, graph.final[there]]), [waiting, begin, stay, pause, follow])


def _assemble(graph: Graph, final: np.ndarray, parts: list[tuple]) -> Graph:
    """One graph of all parts."""
    src, dst, label = (np.concatenate([part[i] for part in parts]) for i in range(3))
    arc = np.concatenate([np.full(len(part[0]), -1) if part[3] is None else part[3] for part in parts])
    aux = np.append(graph.aux, 0)[arc]
    score = np.append(graph.score, np.float32(0))[arc]
    return Graph.from_arcs(src, dst, label, aux, score, final)


def _check_size(arcs: int, topology: str, max_arcs: int) -> None:
    if arcs > max_arcs:
        advice = "; the topology compact is smaller" if topology == "standard" else ""
        raise SigmelError(
            f"the graph with topology {topology} would have {arcs:,} arcs, more than {max_arcs:,}{advice}"
        )
