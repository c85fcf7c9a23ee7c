"""A dense encoder given experts computes what it did, and every part of it learns."""

import pytest
import torch

from sigmel.errors import SigmelError
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.models.lm import DMelLM
from sigmel.models.upcycling import UPCYCLED, upcycle

TINY = {"input_size": 8, "d_model": 16, "num_layers": 4, "num_heads": 2, "subsampling_channels": 4, "conv_kernel": 5}


def dense_and_upcycled(routing, **options):
    torch.manual_seed(0)
    dense = OmniRouterEncoder(**TINY, **options, routing="dense").eval()
    experts = OmniRouterEncoder(**TINY, **options, **routing, **UPCYCLED).eval()
    experts.load_state_dict(upcycle(dense.state_dict(), **routing))
    return dense, experts


@torch.no_grad()
@pytest.mark.parametrize(
    ("routing", "options"),
    [
        ({"routing": "omni", "experts": 8}, {}),
        ({"routing": "omni", "experts": 3}, {"block": "transformer"}),
        ({"routing": "switch", "experts": 3, "top_k": 2}, {"activation": "swiglu"}),
        ({"routing": "path:2", "experts": 2}, {"activation": "gelu"}),
        ({"routing": "omni", "expert_layers": "every:2"}, {}),
        ({"routing": "omni", "expert_layers": "2x2-2x4"}, {}),
    ],
)
def test_it_is_the_dense_encoder_at_first(routing, options):
    dense, experts = dense_and_upcycled(routing, **options)
    features, lengths = torch.randn(3, 90, 8), torch.tensor([90, 61, 8])
    torch.testing.assert_close(
        experts(features, lengths).hidden, dense(features, lengths).hidden, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_it_is_the_dense_encoder_in_streaming():
    dense, experts = dense_and_upcycled({"routing": "omni", "experts": 8}, chunk_size=4, left_context=8)
    features = torch.randn(2, 96, 8)
    hidden, _ = experts.step(features, experts.initial_state(2))
    torch.testing.assert_close(hidden, dense.step(features, dense.initial_state(2))[0], atol=1e-5, rtol=1e-5)


def test_all_experts_and_routers_are_taught_and_experts_come_to_differ():
    _, encoder = dense_and_upcycled({"routing": "omni", "experts": 3}, load_balance_weight=0.0)
    optimizer = torch.optim.AdamW(encoder.train().parameters(), lr=1e-3)
    hidden = encoder(torch.randn(4, 200, 8), torch.tensor([200, 200, 180, 90])).hidden
    (hidden * torch.randn_like(hidden)).mean().backward()
    for block in encoder.blocks:
        experts = block.feed_forward
        assert torch.equal(experts.w1[0], experts.w1[1])
        for parameter in experts.parameters():
            assert (parameter.grad.flatten(1).abs().amax(1) > 0).all()
    assert encoder.routers[0].linear.weight.grad.abs().max() > 0  # of the main loss alone
    optimizer.step()
    for block in encoder.blocks:
        assert not torch.equal(block.feed_forward.w1[0], block.feed_forward.w1[1])


@torch.no_grad()
def test_a_language_model_can_be_given_experts():
    options = {"vocab_size": 9, "d_model": 16, "num_layers": 2, "num_heads": 2, "channels": 5, "bins": 4}
    dense = DMelLM(**options).eval()
    experts = DMelLM(**options, routing="omni", experts=3, **UPCYCLED).eval()
    experts.load_state_dict(upcycle(dense.state_dict(), experts=3))
    speech, text = torch.randint(4, (2, 7, 5), dtype=torch.uint8), torch.randint(9, (2, 5))
    sequence = dense.recognition(speech, torch.tensor([7, 4]), text, torch.tensor([5, 2]), learn_speech=True)
    ours, theirs = experts(sequence), dense(sequence)
    torch.testing.assert_close(ours.text_loss, theirs.text_loss)
    torch.testing.assert_close(ours.speech_loss, theirs.speech_loss)
    assert ours.aux_loss > 0


def test_routers_come_from_their_seed_and_leave_the_random_numbers_alone():
    dense = OmniRouterEncoder(**TINY, routing="dense").state_dict()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (upcycle(dense, seed=seed)["routers.0.linear.weight"] for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"routing": "dense"}, "routing: 'dense' has no experts"),
        ({"routing": "path:3"}, "path:3"),
        ({"experts": 1}, "experts: 1"),
        ({"top_k": 9}, "top_k: 9 of 4"),
        ({"expert_layers": "every:5"}, "every:5"),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    dense = OmniRouterEncoder(**TINY, routing="dense").state_dict()
    with pytest.raises(SigmelError, match=message):
        upcycle(dense, **options)


def test_what_is_no_dense_encoder_is_named():
    with pytest.raises(SigmelError, match="has experts already"):
        upcycle(OmniRouterEncoder(**TINY).state_dict())
    with pytest.raises(SigmelError, match=r"no blocks\.0\.feed_forward\.linear1\.weight"):
        upcycle({"layers.0.weight": torch.zeros(2, 2)})
    with pytest.raises(SigmelError, match=r"is \(4, 2, 3\); only linear layers"):
        upcycle({"blocks.0.feed_forward.linear1.weight": torch.zeros(4, 2, 3)})
