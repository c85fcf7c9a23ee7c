"""Who shares a router, what a decision is, and what the losses say."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigmel.errors import SigmelError
from sigmel.layers.experts import ExpertFeedForward, FeedForward
from sigmel.layers.routing import (
    ExpertGroup,
    Router,
    Routing,
    RoutingDecision,
    load_balance_loss,
    parse_expert_layers,
    router_z_loss,
)


def shared(routers, num_layers):
    """The index of each layer's router, None for a dense layer."""
    distinct = list(routers)
    return [None if (r := routers.of(layer)) is None else distinct.index(r) for layer in range(num_layers)]


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        ("dense", [None, None, None, None]),
        ("switch", [0, 1, 2, 3]),
        ("omni", [0, 0, 0, 0]),
        ("path:2", [0, 0, 1, 1]),
        ("path:1", [0, 1, 2, 3]),
        ("path:4", [0, 0, 0, 0]),
    ],
)
def test_routing_decides_who_shares(routing, expected):
    routers = Routing(routing).build_routers(4, 8)
    assert shared(routers, 4) == expected
    assert len(routers) == len(set(expected) - {None})
    assert shared(copy.deepcopy(routers), 4) == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("all", [ExpertGroup((0, 1, 2, 3), 4)]),
        ("every:2", [ExpertGroup((1, 3), 4)]),
        ("every:3", [ExpertGroup((2,), 4)]),
        ("1x2-3x8", [ExpertGroup((0,), 2), ExpertGroup((1, 2, 3), 8)]),
    ],
)
def test_expert_layers(spec, expected):
    assert parse_expert_layers(spec, 4, 4) == expected


def test_omni_has_one_router_a_group():
    routers = Routing("omni", experts=99, expert_layers="4x2-4x4").build_routers(8, 8)
    assert [r.num_experts for r in routers] == [2, 4]
    assert shared(routers, 8) == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("spec", ["", "none", "every:0", "every:9", "4x2-", "4x2-4x4", "2x2", "0x2-4x2", "every:1.5"])
def test_bad_expert_layers(spec):
    with pytest.raises(SigmelError, match="expert_layers"):
        parse_expert_layers(spec, 4, 4)


@pytest.mark.parametrize(
    ("routing", "layers", "experts", "top_k", "message"),
    [
        ("omny", 4, 4, 1, "routing: 'omny' is none of"),
        ("path:0", 4, 4, 1, "routing: 'path:0' is none of"),
        ("path:3", 4, 4, 1, "does not divide the 4 layers"),
        ("omni", 4, 1, 1, "experts: 1 leaves nothing to route"),
        ("switch", 4, 2, 3, "top_k: 3 of 2 experts"),
        ("switch", 4, 2, 0, "top_k: 0 of 2 experts"),
    ],
)
def test_contradictory_routing(routing, layers, experts, top_k, message):
    with pytest.raises(SigmelError, match=message):
        Routing(routing, experts, top_k).build_routers(layers, 8)


def test_gates_are_the_probabilities_of_the_best():
    router = Router(6, 5, top_k=2).eval()
    u = torch.randn(2, 3, 6)
    decision = router(u)
    p = F.softmax(u @ router.linear.weight.T + router.linear.bias, -1)
    torch.testing.assert_close(decision.gates, p.sort(descending=True).values[..., :2])
    assert torch.equal(decision.experts[..., 0], p.argmax(-1))


def test_scores_are_float32_in_a_bfloat16_model():
    decision = Router(6, 5).to(torch.bfloat16)(torch.randn(1, 2, 6, dtype=torch.bfloat16))
    assert decision.logits.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert Router(6, 5)(torch.randn(1, 2, 6)).logits.dtype == torch.float32


def test_jitter_is_for_training_only():
    router, u = Router(6, 5, jitter=0.3), torch.randn(1, 4, 6)
    assert not torch.equal(router(u).logits, router(u).logits)
    router.eval()
    assert torch.equal(router(u).logits, router(u).logits)


def test_normalised_gates_are_one_and_still_teach_the_router():
    router = Router(6, 4, normalize_gates=True)
    gates = router(torch.randn(2, 3, 6)).gates
    torch.testing.assert_close(gates, torch.ones_like(gates))
    gates.sum().backward()
    assert router.linear.weight.grad.abs().sum() > 0


def decide(experts, num_experts, sharpness=30.0):
    logits = sharpness * F.one_hot(experts, num_experts).float()
    return RoutingDecision(logits, experts[..., None], torch.ones(*experts.shape, 1))


def test_load_balance_is_one_when_even_and_e_when_one_takes_all():
    valid = torch.ones(1, 8, dtype=torch.bool)
    even = decide(torch.arange(8)[None] % 4, 4)
    one = decide(torch.zeros(1, 8, dtype=torch.int64), 4)
    assert load_balance_loss(even, valid).item() == pytest.approx(1.0, abs=1e-4)
    assert load_balance_loss(one, valid).item() == pytest.approx(4.0, abs=1e-4)


def test_losses_do_not_see_padding():
    experts, lengths = torch.randint(0, 4, (2, 9)), (9, 5)
    valid = torch.arange(9) < torch.tensor(lengths)[:, None]
    decision = decide(experts, 4, sharpness=2.0)
    for loss in (load_balance_loss, router_z_loss):
        value = loss(decision, valid)
        other = decide(torch.where(valid, experts, 0), 4, sharpness=2.0)
        torch.testing.assert_close(value, loss(other, valid))
        kept = decide(torch.cat([experts[0], experts[1, :5]])[None], 4, sharpness=2.0)
        torch.testing.assert_close(value, loss(kept, torch.ones(1, 14, dtype=torch.bool)))


def test_z_loss_is_the_squared_log_sum_exp():
    decision = decide(torch.zeros(1, 1, dtype=torch.int64), 2, sharpness=0.0)
    expected = torch.tensor(2.0).log() ** 2
    torch.testing.assert_close(router_z_loss(decision, torch.ones(1, 1, dtype=torch.bool)), expected)


def test_copies_of_a_dense_feed_forward_are_the_dense_feed_forward():
    dense, experts = FeedForward(6, 12, "silu", 0.0), ExpertFeedForward(6, 12, 3, "silu")
    first, second = dense.linear1, dense.linear2
    copies = {"w1": first.weight, "b1": first.bias, "w2": second.weight, "b2": second.bias}
    experts.load_state_dict({name: p.expand_as(getattr(experts, name)) for name, p in copies.items()})
    u = torch.randn(2, 5, 6)
    y, _ = experts(u, Router(6, 3, normalize_gates=True), torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(y, dense(u))


def gradients(sharing, compiled=False):
    torch.manual_seed(0)
    layer, u, valid = ExpertFeedForward(6, 12, 4, "silu", sharing), torch.randn(2, 9, 6), torch.ones(2, 9).bool()
    router = Router(6, 4)
    nn.init.normal_(router.linear.weight)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    y, _ = run(u, router, valid)
    assert torch.equal(y, layer.eval()(u, router, valid)[0])
    names, parameters = zip(*layer.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(y.square().sum(), parameters), strict=True))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("sharing", [0.25, 1.0])
def test_experts_share_a_part_of_their_gradients(sharing, compiled):
    shared = gradients(sharing, compiled)
    for name, own in gradients(0.0).items():
        assert not torch.equal(own[0], own[1])
        torch.testing.assert_close(shared[name], sharing * own.mean(0, keepdim=True) + (1 - sharing) * own)


@pytest.mark.parametrize("sharing", [-0.1, 1.5])
def test_a_share_is_between_0_and_1(sharing):
    with pytest.raises(SigmelError, match=f"gradient_sharing: {sharing} must be from 0 to 1"):
        Routing(gradient_sharing=sharing)


def test_frames_that_are_padding_come_out_as_zero():
    valid = torch.tensor([[True, True, False]])
    y, _ = ExpertFeedForward(6, 12, 3, "relu")(torch.randn(1, 3, 6), Router(6, 3), valid)
    assert y[0, 2].abs().sum() == 0
    assert (y[0, :2].abs().sum(-1) > 0).all()
