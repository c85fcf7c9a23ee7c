"""The routed feed-forward against the plainest loop there is, and against torch's own checks of an op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.ops import expert_mlp
from sigmel.ops.experts.reference import ACTIVATIONS, every_expert


def make(n, d, f, e, k, dtype=torch.float64, seed=0, drop=0.0):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    scores = torch.rand(n, e, generator=g, dtype=dtype)
    gates, experts = scores.topk(k, dim=-1)
    experts[torch.rand(n, generator=g) < drop] = -1
    return rand(n, d), experts, gates, rand(e, f, d), rand(e, f), rand(e, d, f), rand(e, d)


def frame_by_frame(x, experts, gates, w1, b1, w2, b2, activation):
    out = 0 * x  # keeps the graph when nothing is chosen
    for n in range(x.shape[0]):
        for k in range(experts.shape[1]):
            e = int(experts[n, k])
            if e >= 0:
                out[n] = out[n] + gates[n, k] * (w2[e] @ ACTIVATIONS[activation](w1[e] @ x[n] + b1[e]) + b2[e])
    return out


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 9),
    e=st.integers(2, 5),
    k=st.integers(1, 2),
    drop=st.sampled_from([0.0, 0.4, 1.0]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    seed=st.integers(0, 1000),
)
def test_equals_frame_by_frame_with_gradients(n, e, k, drop, activation, seed):
    arguments = make(n, 4, 6, e, k, seed=seed, drop=drop)
    ours = [t.clone().requires_grad_(t.is_floating_point()) for t in arguments]
    theirs = [t.clone().requires_grad_(t.is_floating_point()) for t in arguments]
    out, expected = expert_mlp(*ours, activation), frame_by_frame(*theirs, activation)
    torch.testing.assert_close(out, expected)
    weight = torch.randn(out.shape, dtype=out.dtype)
    (out * weight).sum().backward()
    (expected * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a.grad, torch.zeros_like(a) if b.grad is None else b.grad)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_gradcheck(activation):
    x, experts, gates, *weights = [t.requires_grad_(t.is_floating_point()) for t in make(7, 3, 5, 3, 2, drop=0.3)]
    assert torch.autograd.gradcheck(
        lambda x, g, *w: expert_mlp(x, experts, g, *w, activation), (x, gates, *weights), eps=1e-6
    )


def test_every_expert_gives_the_same_output():
    arguments = make(11, 4, 6, 3, 2, drop=0.3)
    torch.testing.assert_close(every_expert(*arguments, "gelu")[0], expert_mlp(*arguments, "gelu"))


def test_opcheck():
    x, experts, gates, *weights = make(6, 4, 8, 3, 1, dtype=torch.float32, drop=0.2)
    tensors = [t.requires_grad_() for t in (x, gates, *weights)]
    torch.library.opcheck(torch.ops.sigmel.expert_mlp.default, (tensors[0], experts, *tensors[1:], "silu"))


def test_autocast_takes_its_dtype_and_stays_close():
    arguments = make(16, 8, 16, 3, 1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = expert_mlp(*arguments)
    assert out.dtype == torch.bfloat16
    expected = expert_mlp(*arguments)
    assert (out.float() - expected).norm() < 0.02 * expected.norm()


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation: 'swish' is none of relu, gelu, silu"):
        expert_mlp(*make(2, 3, 4, 2, 1), "swish")
