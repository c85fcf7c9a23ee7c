"""Routing statistics against counts made by hand."""

import math

import pytest
import torch
from torch import nn

from sigmel.layers.routing import RoutingDecision
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.routing_study.statistics import RoutingStatistics, watch_routing


def decide(experts, num_experts=4):
    experts = torch.tensor(experts)[..., None]
    return RoutingDecision(torch.zeros(*experts.shape[:2], num_experts), experts, torch.ones(experts.shape))


def test_counts_valid_frames_only():
    routing = [decide([[0, 0, 1, 3], [2, 1, 3, 3]]), decide([[0, 1, 1, 3], [2, 1, 0, 0]])]
    statistics = RoutingStatistics()
    statistics.update(routing, torch.tensor([3, 2]))
    summary = statistics.summary()
    assert summary["frames"] == 5
    assert summary["layers"][0]["load"] == pytest.approx([0.4, 0.4, 0.2, 0.0])
    assert summary["layers"][0]["dead_experts"] == [3]
    assert summary["layers"][0]["entropy"] == pytest.approx(math.log(4))
    assert summary["overlap"] == pytest.approx([4 / 5])  # only frame 1 of the first utterance changed its mind


def test_batches_add_up():
    torch.manual_seed(0)
    logits = torch.randn(2, 6, 7, 3)
    routing = [RoutingDecision(x, x.topk(2).indices, x.softmax(-1).topk(2).values) for x in logits]
    lengths = torch.tensor([7, 3, 5, 1, 7, 2])
    whole, parts = RoutingStatistics(), RoutingStatistics()
    whole.update(routing, lengths)
    for rows in (slice(0, 2), slice(2, 6)):
        parts.update([RoutingDecision(*(t[rows] for t in d[:3])) for d in routing], lengths[rows])
    assert parts.summary()["layers"][0]["load"] == pytest.approx(whole.summary()["layers"][0]["load"])
    assert parts.summary()["overlap"] == pytest.approx(whole.summary()["overlap"])


def test_a_dense_encoder_has_nothing_to_say():
    statistics = RoutingStatistics()
    statistics.update((), torch.tensor([3]))
    assert statistics.summary() == {"frames": 0, "layers": [], "overlap": []}


def test_the_longest_utterance_is_kept_whatever_batch_it_is_in():
    torch.manual_seed(0)
    encoder = OmniRouterEncoder(input_size=4, d_model=8, num_layers=2, num_heads=2)
    model = nn.ModuleDict({"encoder": encoder}).eval()
    lengths = [[9, 30], [41, 8, 41], [20]]
    with watch_routing(model) as watch:
        for batch in lengths:
            encoder(torch.randn(len(batch), max(batch), 4), torch.tensor(batch))
        expected = encoder(features := torch.randn(1, 50, 4), torch.tensor([50]))
    report = watch.report([{"id": str(n)} for n in range(7)], [0.52] * 7)
    assert (watch.seen, report["utterance"]["id"], report["utterance"]["frame_seconds"]) == (7, "6", 0.04)
    assert report["utterance"]["experts"] == [decision.experts[0, :, 0].tolist() for decision in expected.routing]
    assert report["frames"] == sum((length + 3) // 4 for length in [9, 30, 41, 8, 41, 20, 50])
    encoder(features, torch.tensor([50]))
    assert watch.seen == 7  # it watches no longer


def test_a_model_without_routers_is_not_watched():
    dense = nn.ModuleDict({"encoder": OmniRouterEncoder(d_model=8, num_layers=1, num_heads=2, routing="dense")})
    for model in (dense, nn.Linear(1, 1)):
        with watch_routing(model) as watch:
            assert watch is None
