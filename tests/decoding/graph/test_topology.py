"""CTC topologies against their definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.openfst import without_epsilons
from sigmel.decoding.graph.topology import TOPOLOGIES, expand
from sigmel.errors import SigmelError


@st.composite
def token_graphs(draw, tokens=(1, 2), epsilons=0):
    """Graphs over two tokens, with at most so many epsilons."""
    states = draw(st.integers(1, 3))
    state, score = st.integers(0, states - 1), st.sampled_from([0.0, -0.5, -1.25, 0.75])
    arcs = draw(
        st.lists(st.tuples(state, state, st.sampled_from(tokens), st.integers(0, 2), score), max_size=6, unique=True)
    )
    for src, dst, weight in draw(st.lists(st.tuples(state, state, score), max_size=epsilons)):
        if src < dst:
            arcs.append((src, dst, 0, 0, weight))
    final = draw(st.lists(st.sampled_from([-np.inf, 0.0, -0.25]), min_size=states, max_size=states))
    if not np.any(np.isfinite(final)):
        final[-1] = 0.0
    columns = zip(*arcs, strict=True) if arcs else [()] * 5
    return Graph.from_arcs(*columns, final)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@given(graph=token_graphs(epsilons=3), blank=st.sampled_from([0, 2]))
@settings(max_examples=60, deadline=None)
def test_frames_are_read_as_the_tokens_that_they_spell(brute_force, topology, graph, blank):
    tokens = [token for token in range(3) if token != blank]
    labels = {0: 0} | {number: token + 1 for number, token in zip((1, 2), tokens, strict=True)}
    relabelled = Graph.from_arcs(
        graph.src, graph.dst, [labels[label] for label in graph.label], graph.aux, graph.score, graph.final
    )
    expanded = expand(relabelled, blank, topology)
    assert np.any(expanded.label == 0) <= np.any(graph.label == 0)
    for length in range(4):
        for frames in itertools.product(range(3), repeat=length):
            expected = {}
            for spelled in brute_force.collapse(frames, blank, topology):
                for written, score in brute_force.best_paths(relabelled, [token + 1 for token in spelled]).items():
                    expected[written] = max(score, expected.get(written, -np.inf))
            found = brute_force.best_paths(expanded, [token + 1 for token in frames])
            assert found == pytest.approx(expected, abs=1e-5)


@given(graph=token_graphs(epsilons=3), frames=st.lists(st.integers(0, 2), max_size=4))
@settings(max_examples=100, deadline=None)
def test_each_path_of_a_graph_reads_frames_in_one_way(brute_force, graph, frames):
    (spelled,) = brute_force.collapse(frames, 2, "standard")
    expected = brute_force.paths(graph, [token + 1 for token in spelled])
    found = brute_force.paths(expand(graph, 2), [token + 1 for token in frames])
    assert sorted(found) == sorted(expected)  # scores are multiples of a quarter


@given(graph=token_graphs())
@settings(max_examples=50, deadline=None)
def test_sizes_are_those_stated(graph):
    pairs = {(dst, label) for dst, label in zip(graph.dst.tolist(), graph.label.tolist(), strict=True)}
    onward = sum(int(np.sum((graph.src == dst) & (graph.label != label))) for dst, label in pairs)
    states, arcs = graph.num_states, graph.num_arcs
    sizes = {
        "standard": (states + len(pairs), states + arcs + 2 * len(pairs) + onward),
        "compact": (states + len(pairs), states + 2 * arcs + 2 * len(pairs)),
        "minimal": (states, states + arcs),
    }
    for topology, size in sizes.items():
        expanded = expand(graph, 2, topology)
        assert (expanded.num_states, expanded.num_arcs) == size


def test_a_graph_that_would_be_too_large_is_refused_with_its_size():
    tokens = np.arange(1, 501)
    any_token = Graph.from_arcs(0 * tokens, 0 * tokens, tokens, tokens, 0.0 * tokens, [0.0])
    with pytest.raises(SigmelError, match=r"251,\d\d\d arcs, more than 250,000; the topology compact is smaller"):
        expand(any_token, 500, "standard", max_arcs=250_000)
    assert expand(any_token, 500, "compact", max_arcs=250_000).num_arcs == 2001


@pytest.mark.parametrize(
    ("label", "topology", "message"),
    [
        (0, "standard", "epsilons lead from state 0 back to it"),
        (3, "standard", "read the blank, token 2"),
        (1, "loose", "loose"),
    ],
)
def test_bad_input(label, topology, message):
    with pytest.raises(SigmelError, match=message):
        expand(Graph.from_arcs([0], [0], [label], [0], [0.0], [0.0]), 2, topology)


@given(graph=token_graphs(epsilons=4))
@settings(max_examples=100, deadline=None)
def test_without_epsilons_the_best_paths_are_equal(brute_force, graph):
    graph.final[0] = max(graph.final[0], np.float32(-1.0))  # so that there is a path
    plain = without_epsilons(graph)
    assert np.all(plain.label > 0)
    arcs = set(zip(plain.src, plain.dst, plain.label, plain.aux, strict=True))
    assert len(arcs) == plain.num_arcs or plain is graph  # of equal arcs, the best
    for length in range(4):
        for labels in itertools.product((1, 2), repeat=length):
            expected = brute_force.best_paths(graph, labels)
            assert brute_force.best_paths(plain, labels) == pytest.approx(expected, abs=1e-5)
