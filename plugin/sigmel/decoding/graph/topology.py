"""CTC topologies: from a graph that reads tokens to a graph that reads a token or a blank in every frame.

A topology H says which frames spell a sequence of tokens. Composing it with a graph of arcs (S states, A arcs, P
different pairs of a state and a token on arcs to it) is done here by numbering, without building H:

========  =============================================  =====================================================
topology  frames of a token                              states, arcs
========  =============================================  =====================================================
standard  one or more; a blank separates equal tokens    S + P, at most S + A + 2 P + sum over P of arcs onward
compact   one or more                                    S + P, S + 2 A + 2 P
minimal   one                                            S, S + A
========  =============================================  =====================================================

Blanks may stand anywhere between tokens. The standard topology is that of CTC (Graves et al., "Connectionist temporal
classification", ICML 2006), the others leave out parts that make it large (Laptev, Majumdar and Ginsburg, "CTC
variations through new WFST topologies", Interspeech 2022). Where each of V tokens may follow each, the standard
topology has V * V arcs, so its size is checked before it is made.

Epsilons of the graph, such as those of a language model that backs off, stay epsilons. They are taken at the last
moment, just before the next token or the end, so that for each path of the graph there is one way to read frames. The
states behind epsilons come on top: one for each state that epsilons lead to (in the standard topology, for each such
state and last token).
"""

from __future__ import annotations

import numpy as np

from sigmel.decoding.graph.graph import EPSILON, MAX_ARCS, Graph, check_size, ranges
from sigmel.errors import SigmelError

TOPOLOGIES = ("standard", "compact", "minimal")


def expand(graph: Graph, blank: int, topology: str = "standard", max_arcs: int = MAX_ARCS) -> Graph:
    """Compose a CTC topology with a graph.

    Args:
        graph: reads tokens, one on each arc, never the blank; epsilon arcs write nothing and form no cycle.
        blank: the model's number of the blank.
        topology: one of `TOPOLOGIES`.
        max_arcs: how many arcs the result may have.

    Returns:
        A graph that reads one label in every frame, with the words and scores of `graph`. Only if `graph` has
        epsilons, the result has epsilons.

    Raises:
        SigmelError: the topology is unknown, an arc reads the blank, an epsilon arc writes, epsilons form a cycle, or
            the result would be too large.
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

    # A node of the result is a state of the graph and the label of the last frame's token, if this token may not be
    # read again as a new one; otherwise label 0. First come nodes where a blank may be read, then nodes where the
    # token may go on, then nodes behind epsilons.
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
    size = len(states) + 2 * len(pairs) + doubled * int(count.sum()) + int(pauses.sum())
    advice = "the topology compact is smaller" if topology == "standard" else "prune the language model"
    check_size(f"the topology {topology}", size, max_arcs, advice)

    # Every part is (src, dst, label, arc); the output and the score come from `arc` of the graph, if there is one.
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
    if topology != "standard":  # the token may end after its first frame
        parts.append((src, arcs.dst[arc], arcs.label[arc], arc))
    if topology != "minimal":
        parts.append((src, own + np.searchsorted(pairs, entering[arc]), arcs.label[arc], arc))
        over = np.full(len(stay), blank + 1) if topology == "standard" else token[stay]
        parts.append((stay, state[stay], over, None))
    return _assemble(arcs, np.where(leaves, arcs.final[state], -np.inf), parts)


def _behind_epsilons(graph: Graph, nodes: np.ndarray, width: int) -> np.ndarray:
    """The nodes that epsilons lead to from `nodes`, in ascending order; a node is state * width + label."""
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
    """The graph with the arcs of all parts."""
    src, dst, label = (np.concatenate([part[i] for part in parts]) for i in range(3))
    arc = np.concatenate([np.full(len(part[0]), -1) if part[3] is None else part[3] for part in parts])
    aux = np.append(graph.aux, 0)[arc]
    score = np.append(graph.score, np.float32(0))[arc]
    return Graph.from_arcs(src, dst, label, aux, score, final)
