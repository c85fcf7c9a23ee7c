"""The encoder's promises: padding changes nothing, streaming is offline, every host of a graph agrees."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.errors import SigmelError
from sigmel.layers.masks import Visible
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.models.stack import parameter_counts

TINY = {"input_size": 8, "d_model": 16, "num_layers": 4, "num_heads": 2, "experts": 3, "subsampling_channels": 4}
TINY |= {"conv_kernel": 5, "dropout": 0.0}
BLOCKS = ["transformer", "conformer"]
SUBSAMPLINGS = ["stack", "conv"]
POSITIONS = ["rope", "sinusoidal", "alibi", "relative", "none"]
ROUTINGS = ["dense", "switch", "omni", "path:2"]


def build(seed=0, **options):
    torch.manual_seed(seed)
    encoder = OmniRouterEncoder(**(TINY | options)).eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith("layer_scale"):
            torch.nn.init.ones_(parameter)  # it begins so small that what it scales would not be tested
        if name.endswith(("positions.u", "positions.v")):
            torch.nn.init.normal_(parameter)
    return encoder


def batch(lengths, size=8, seed=1):
    torch.manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), size), torch.tensor(lengths)


@torch.no_grad()
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(
    ("attention", "chunk_size", "left_context"),
    [("softmax", None, None), ("softmax", 1, None), ("softmax", 3, 4), ("sigmoid", None, None), ("sigmoid", 3, 4)],
)
def test_alone_equals_in_a_batch(block, subsampling, positions, routing, attention, chunk_size, left_context):
    encoder = build(
        attention=attention,
        block=block,
        subsampling=subsampling,
        positions=positions,
        routing=routing,
        chunk_size=chunk_size,
        left_context=left_context,
    )
    features, lengths = batch([37, 22, 9, 1])
    together = encoder(features, lengths)
    assert together.lengths.tolist() == [10, 6, 3, 1]
    garbage = features.masked_fill(torch.arange(37)[None, :, None] >= lengths[:, None, None], 1e4)
    assert torch.equal(encoder(garbage, lengths).hidden, together.hidden)
    for n, length in enumerate(lengths.tolist()):
        alone = encoder(features[n : n + 1, :length], lengths[n : n + 1])
        frames = alone.hidden.shape[1]
        torch.testing.assert_close(together.hidden[n, :frames], alone.hidden[0], atol=1e-5, rtol=0)
        assert together.hidden[n, frames:].abs().sum() == 0
        for ours, theirs in zip(together.routing, alone.routing, strict=True):
            assert torch.equal(ours.experts[n, :frames], theirs.experts[0])


@torch.no_grad()
@settings(max_examples=40, deadline=None)
@given(
    block=st.sampled_from(BLOCKS),
    subsampling=st.sampled_from(SUBSAMPLINGS),
    positions=st.sampled_from(POSITIONS),
    routing=st.sampled_from(ROUTINGS),
    chunk_size=st.integers(1, 4),
    left_context=st.none() | st.integers(0, 9),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    chunks_a_step=st.integers(1, 3),
    sigmoid=st.booleans(),
)
def test_streamed_equals_offline(
    block, subsampling, positions, routing, chunk_size, left_context, lengths, chunks_a_step, sigmoid
):
    encoder = build(
        attention="sigmoid" if sigmoid and left_context is not None else "softmax",
        block=block,
        subsampling=subsampling,
        positions=positions,
        routing=routing,
        chunk_size=chunk_size,
        left_context=left_context,
    )
    features, lengths = batch(lengths)
    offline = encoder(features, lengths).hidden
    state, streamed = encoder.initial_state(len(lengths)), []
    span = chunks_a_step * chunk_size * encoder.subsampling_factor
    for start in range(0, features.shape[1], span):
        y, state = encoder.step(features[:, start : start + span], state, lengths - start)
        streamed.append(y)
    torch.testing.assert_close(torch.cat(streamed, 1), offline, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_state_stays_bounded_with_a_left_context():
    encoder = build(chunk_size=2, left_context=3)
    state = encoder.initial_state(1)
    for _ in range(5):
        _, state = encoder.step(torch.randn(1, 8, 8), state)
        assert {block.attention.keys.shape[2] for block in state.blocks} == {3}


def test_a_causal_encoder_does_not_see_the_future():
    encoder = build(chunk_size=1, block="conformer", subsampling="conv")
    features, lengths = batch([40])
    features.requires_grad_()
    (encoder(features, lengths).hidden[0, 4] @ torch.randn(16)).backward()  # frame 4 is made of features up to 19
    seen = features.grad[0].abs().sum(-1)
    assert seen[:20].min() > 0
    assert seen[20:].max() == 0


@pytest.mark.parametrize(("routing", "routers"), [("dense", 0), ("switch", 4), ("path:2", 2), ("omni", 1)])
def test_routers_are_owned_once(routing, routers):
    encoder = build(routing=routing)
    weights = [name for name in encoder.state_dict() if "linear.weight" in name and name.startswith("routers")]
    assert len(weights) == routers
    assert not [name for name in encoder.state_dict() if name.startswith("blocks") and "router" in name]
    assert len(encoder(*batch([30])).routing) == (0 if routing == "dense" else 4)


def test_decisions_are_taken_again_at_each_layer():
    torch.manual_seed(3)
    encoder = build(routing="omni", seed=3)
    torch.nn.init.normal_(encoder.routers[0].linear.weight)
    routing = encoder(*batch([200])).routing
    assert any(not torch.equal(routing[0].experts, other.experts) for other in routing[1:])


def test_the_shared_router_learns_from_every_layer():
    encoder = build(routing="omni").train()
    out = encoder(*batch([50, 30]))
    for layer in range(4):
        encoder.zero_grad()
        out.routing[layer].logits.square().sum().backward(retain_graph=True)
        assert encoder.routers[0].linear.weight.grad.abs().sum() > 0


def test_auxiliary_loss_is_weighted_and_summed_over_layers():
    out = build(load_balance_weight=0.0, z_loss_weight=0.0)(*batch([50, 30]))
    assert out.aux_loss == 0
    one, two = (build(load_balance_weight=w)(*batch([50, 30])).aux_loss for w in (1.0, 2.0))
    torch.testing.assert_close(two, 2 * one)
    assert 4 <= one <= 4 * 3  # between 1 (balanced) and E (one takes all) for each of 4 layers
    assert build(routing="dense", load_balance_weight=1.0)(*batch([50])).aux_loss == 0


def test_a_bias_of_zero_makes_attention_large():
    """As many keys as there are, each with half a weight: what -ln n is there against."""
    plain = {"attention": "sigmoid", "block": "transformer", "subsampling": "stack", "subsampling_factor": 1}
    bare = {"qk_norm": False, "hybrid_norm": False, "layer_scale": None}
    features, lengths = batch([400])
    zero, right = (
        build(attention_options=bare | {"bias": bias}, **plain).train()(features, lengths).attention_norms
        for bias in (0.0, None)
    )
    assert zero[0] > 20 * right[0]


@torch.no_grad()
def test_softmax_takes_the_stabilisers_too():
    names = {name.split("attention.")[1] for name in build(attention="sigmoid").state_dict() if ".attention." in name}
    stabilisers = {"qk_norm": True, "hybrid_norm": True, "layer_scale": 0.5}
    encoder = build(attention_options=stabilisers)
    assert {name.split("attention.")[1] for name in encoder.state_dict() if ".attention." in name} == names
    attention, x = encoder.blocks[0].attention, torch.randn(2, 5, 16)
    torch.nn.init.constant_(attention.layer_scale, 0.5)
    visible = Visible(torch.tensor([5, 5]), 5, None, None)
    y = attention(x, visible, attention.positions.table(torch.arange(5), 0, 16, 2))
    torch.testing.assert_close(y.std(-1, correction=0), torch.full((2, 5), 0.5), atol=1e-3, rtol=0)
    attention.in_proj.weight[:32] *= 100  # queries and keys
    attention.in_proj.bias.zero_()
    once = attention(x, visible, attention.positions.table(torch.arange(5), 0, 16, 2))
    attention.in_proj.weight[:32] *= 100
    twice = attention(x, visible, attention.positions.table(torch.arange(5), 0, 16, 2))
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


@pytest.mark.parametrize("block", BLOCKS)
def test_attention_norms_are_of_what_attention_adds_to_frames_that_exist(block):
    encoder, found = build(block=block), []
    for layer in encoder.blocks:
        layer.attention.register_forward_hook(lambda module, args, output: found.append(output))
    features, lengths = batch([50, 30])
    assert encoder(features, lengths).attention_norms is None
    found.clear()
    out = encoder.train()(features, lengths)
    exists = torch.arange(13) < out.lengths[:, None]
    torch.testing.assert_close(out.attention_norms, torch.stack([y[exists].norm(dim=-1).mean() for y in found]))
    assert not out.attention_norms.requires_grad


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"expert_layers": "every:2"}, {"expert_layers": "2x2-2x4"}])
def test_active_parameters_are_what_a_frame_uses(options):
    encoder = build(**options)
    total, active = parameter_counts(encoder)
    assert total == sum(p.numel() for p in encoder.parameters())
    encoder.train()
    encoder(*batch([1])).hidden.square().sum().backward()  # one frame
    used = 0
    for name, p in encoder.named_parameters():
        expert = "feed_forward.w" in name or ".feed_forward.b" in name
        used += p[p.grad.flatten(1).abs().sum(1) > 0].numel() if expert else p.numel()
    assert active == used


def test_saved_is_loaded():
    encoder, other = build(seed=0), build(seed=1)
    other.load_state_dict(copy.deepcopy(encoder.state_dict()), strict=True)
    features, lengths = batch([31, 14])
    assert torch.equal(encoder(features, lengths).hidden, other(features, lengths).hidden)


@pytest.mark.parametrize("block", BLOCKS)
def test_bfloat16_and_autocast_stay_close(block):
    encoder = build(block=block, routing="dense")  # a rounded input may change an expert, so dense here
    features, lengths = batch([31, 14])
    expected = encoder(features, lengths).hidden
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(features, lengths).hidden.float()
    half = copy.deepcopy(encoder).bfloat16()(features.bfloat16(), lengths).hidden
    assert half.dtype == torch.bfloat16
    for other in (mixed, half.float()):
        assert (other - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_bfloat16_trains(routing):
    encoder = build(routing=routing).bfloat16().train()
    features, lengths = batch([31, 14])
    out = encoder(features.bfloat16(), lengths)
    (out.hidden.float().square().sum() + out.aux_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": "lstm"}, "block: 'lstm' is none of conformer, transformer"),
        ({"subsampling": "pool"}, "subsampling: 'pool'"),
        ({"subsampling_factor": 3}, "subsampling_factor: 3 is no power of two"),
        ({"positions": "learned"}, "positions: 'learned'"),
        ({"attention": "softmaxx"}, "softmax"),
        ({"attention_options": {"qknorm": True}}, "attention_options: .*'qknorm'"),
        ({"activation": "tanh"}, "activation: 'tanh'"),
        ({"num_heads": 3}, "num_heads: 3 does not divide d_model: 16"),
        ({"num_layers": 0}, "num_layers: 0"),
        ({"routing": "path:3"}, "routing: 'path:3' does not divide"),
        ({"experts": 1}, "experts: 1"),
        ({"top_k": 4}, "top_k: 4 of 3"),
        ({"left_context": 4}, "left_context: 4 must be at least 0, and needs chunk_size"),
        ({"chunk_size": 0}, "chunk_size: 0"),
        ({"conv_kernel": 4}, "conv_kernel: 4 must be odd"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises((SigmelError, ValueError), match=message):
        build(**options)


def test_full_context_cannot_stream():
    with pytest.raises(SigmelError, match="chunk_size"):
        build().initial_state(1)
