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

Epsilons of the graph, such as those of a language model that backs off, stay epsilons. They are taken at the last
moment, just before the next token or the end, so that for each path of the graph there is one way to read frames; the
states behind them, one for each state (and, in the standard topology, each last token) that they lead to, come on top.
"""

from __future__ import annotations

import numpy as np

from sigmel.decoding.graph.graph import EPSILON, MAX_ARCS, Graph, ranges
from sigmel.errors import SigmelError

TOPOLOGIES = ("standard", "compact", "minimal")


def expand(graph: Graph, blank: int, topology: str = "standard", max_arcs: int = MAX_ARCS) -> Graph:
    """Compose a CTC topology with a graph.

    Args:
        graph: reads tokens, one an arc, never the blank; arcs that read nothing write nothing, and make no cycle.
        blank: the model's number of the blank; any.
        topology: one of `TOPOLOGIES`.
        max_arcs: how many arcs the result may have.

    Returns:
        A graph that reads one label in every frame and has no epsilon if ``graph`` has none; what it writes and its
        scores are ``graph``'s.

    Raises:
        SigmelError: an unknown topology, an arc that reads the blank, one that only writes, a cycle of epsilons, or
            too large a result.
    """
    if topology not in TOPOLOGIES:
        raise SigmelError(f"topology {topology!r} is unknown; one of {', '.join(TOPOLOGIES)}")
    if np.any(graph.label == blank + 1):
        raise SigmelError(f"graph: {np.sum(graph.label == blank + 1)} arcs read the blank, token {blank}")
    graph.check_epsilons()
    arcs = Graph.from_arcs(graph.src, graph.dst, graph.label, graph.aux, graph.score, graph.final)  # epsilons first
    starts, states = arcs.arcs_of(), np.arange(arcs.num_states)
    silent = np.bincount(arcs.src[arcs.label == EPSILON], minlength=arcs.num_states)
    onward = np.diff(starts) - silent
    spoken = arcs.label != EPSILON
    width = int(arcs.label.max(initial=0)) + 1
    entering = arcs.dst.astype(np.int64) * width + arcs.label  # a state, and the token on an arc to it

    # The nodes of the result: a state of the graph, and the token in the last frame where it may not be read again; 0
    # is none. First those where a blank may be read, then those where the token may go on, then those behind epsilons.
    pairs = np.unique(entering[spoken]) if topology != "minimal" else entering[:0]
    waiting = states.astype(np.int64) * width
    behind = _behind_epsilons(arcs, np.concatenate([waiting, pairs] if topology == "standard" else [waiting]), width)
    own, last = len(states), len(states) + len(pairs)
    nodes = np.concatenate([waiting, pairs, behind])
    state, token = nodes // width, nodes % width
    leaves = np.ones(len(nodes), bool)  # whether the next token or an epsilon may follow
    leaves[own:last] = topology == "standard"
    count, pauses = np.where(leaves, onward[state], 0), np.where(leaves, silent[state], 0)
    doubled = 2 if topology == "compact" else 1
    _check_size(len(states) + 2 * len(pairs) + doubled * int(count.sum()) + int(pauses.sum()), topology, max_arcs)

    # Every part is (src, dst, label, arc), where arc is the arc of the graph whose output and score it has, if any.
    src, arc = np.repeat(np.arange(len(nodes)), count), ranges(starts[state] + silent[state], count)
    other = arcs.label[arc] != token[src]
    src, arc = src[other], arc[other]
    quiet, epsilon = np.repeat(np.arange(len(nodes)), pauses), ranges(starts[state], pauses)
    reached = np.searchsorted(behind, arcs.dst[epsilon].astype(np.int64) * width + token[quiet])
    stay = np.arange(own, last)
    parts = [
        (states, states, np.full(len(states), blank + 1), None),
        (quiet, last + reached, 0 * quiet, epsilon),
        (stay, stay, token[stay], None),
    ]
    if topology != "standard":  # the token may be over after its first frame
        parts.append((src, arcs.dst[arc], arcs.label[arc], arc))
    if topology != "minimal":
        parts.append((src, own + np.searchsorted(pairs, entering[arc]), arcs.label[arc], arc))
        over = np.full(len(stay), blank + 1) if topology == "standard" else token[stay]
        parts.append((stay, state[stay], over, None))
    return _assemble(arcs, np.where(leaves, arcs.final[state], -np.inf), parts)


def _behind_epsilons(graph: Graph, nodes: np.ndarray, width: int) -> np.ndarray:
    """The nodes that epsilons lead to from some, in ascending order; a node is state * width + token."""
    starts = graph.arcs_of()
    silent = np.bincount(graph.src[graph.label == EPSILON], minlength=graph.num_states)
    found = nodes[:0]
    while len(nodes):
        state = nodes // width
        arc = ranges(starts[state], silent[state])
        there = graph.dst[arc].astype(np.int64) * width + np.repeat(nodes % width, silent[state])
        nodes = np.setdiff1d(there, found)
        found = np.union1d(found, nodes)
    return found


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
