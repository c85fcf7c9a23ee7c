"""The routed feed-forward against the plainest loop there is, and against torch's own checks of an op."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from sigmel.ops import expert_mlp, native
from sigmel.ops.experts import cpu, reference
from sigmel.ops.experts.reference import ACTIVATIONS, Inputs, every_expert


def make(n, d, f, e, k, dtype=torch.float64, seed=0, drop=0.0, activation="silu"):
    g = torch.Generator().manual_seed(seed)
    rand = lambda *shape: torch.randn(*shape, generator=g, dtype=dtype)  # noqa: E731
    scores = torch.rand(n, e, generator=g, dtype=dtype)
    gates, experts = scores.topk(k, dim=-1)
    experts[torch.rand(n, generator=g) < drop] = -1
    inner = reference.inner_size(f, activation)
    return rand(n, d), experts, gates, rand(e, inner, d), rand(e, inner), rand(e, d, f), rand(e, d)


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
    arguments = make(n, 4, 6, e, k, seed=seed, drop=drop, activation=activation)
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
    case = make(7, 3, 5, 3, 2, drop=0.3, activation=activation)
    x, experts, gates, *weights = [t.requires_grad_(t.is_floating_point()) for t in case]
    assert torch.autograd.gradcheck(
        lambda x, g, *w: expert_mlp(x, experts, g, *w, activation), (x, gates, *weights), eps=1e-6
    )


@pytest.mark.parametrize("activation", ["gelu", "geglu"])
def test_every_expert_gives_the_same_output(activation):
    arguments = make(11, 4, 6, 3, 2, drop=0.3, activation=activation)
    output, _ = every_expert(Inputs(*arguments, activation), keep=False)
    torch.testing.assert_close(output, expert_mlp(*arguments, activation))


@pytest.mark.parametrize("size", [4, 16], ids=["definition", "kernel"])
def test_opcheck(size, monkeypatch):
    room = reference.kept  # of which what is not used may hold anything
    monkeypatch.setattr(reference, "kept", lambda *arguments: room(*arguments).zero_())
    x, experts, gates, *weights = make(6, size, 16, 3, 1, dtype=torch.float32, drop=0.2)
    tensors = [t.requires_grad_() for t in (x, gates, *weights)]
    opcheck(torch.ops.sigmel.expert_mlp.default, (tensors[0], experts, *tensors[1:], "silu", True))
    tensors = [t.detach().mT.contiguous().mT.requires_grad_() for t in tensors]  # of any strides
    opcheck(torch.ops.sigmel.expert_mlp.default, (tensors[0], experts, *tensors[1:], "silu", True))


def test_autocast_takes_its_dtype_and_stays_close():
    arguments = make(16, 8, 16, 3, 1, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = expert_mlp(*arguments)
    assert out.dtype == torch.bfloat16
    expected = expert_mlp(*arguments)
    assert (out.float() - expected).norm() < 0.02 * expected.norm()


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match="activation: 'swish' is none of relu, gelu, silu, reglu, geglu, swiglu"):
        expert_mlp(*make(2, 3, 4, 2, 1), "swish")


@pytest.mark.parametrize(
    ("number", "shape", "message"),
    [
        (0, (5, 3), r"x: shape \(5, 3\), expected \(5, 4\)"),
        (2, (5, 2), r"gates: shape \(5, 2\), expected \(5, 1\)"),
        (3, (3, 6, 4), r"w1: shape \(3, 6, 4\), expected \(3, 12, 4\)"),
        (5, (4, 6), "w2, experts: 2 and 2 dimensions, expected 3 and 2"),
    ],
)
def test_shapes_are_checked(number, shape, message):
    arguments = list(make(5, 4, 6, 3, 1, activation="swiglu"))
    arguments[number] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        expert_mlp(*arguments, "swiglu")


def test_types_are_checked():
    x, experts, gates, *parameters = make(5, 16, 16, 3, 1, torch.float32)
    parameters[2] = parameters[2].double()
    with pytest.raises(ValueError, match=r"w2: torch.float64, but x is torch.float32"):
        expert_mlp(x, experts, gates, *parameters)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("expert", "message"), [(3, "from 0 to 3, expected -1, .* to 2"), (-2, "from -2 to ")])
def test_experts_that_are_not_there_are_named(expert, message, compiled):
    x, experts, *rest = make(5, 16, 16, 3, 1, torch.float32)
    experts[:] = 0
    experts[2] = expert
    run = torch.compile(expert_mlp, fullgraph=True, backend="aot_eager") if compiled else expert_mlp
    with pytest.raises(ValueError, match=f"experts: {message}"):
        run(x, experts, *rest)
    with pytest.raises(ValueError, match=r"experts: torch.int32, expected torch.int64"):
        expert_mlp(x, experts.int(), *rest)


# --- The compiled kernel


def test_the_kernel_is_there():
    """Else the tests below would compare the definition with itself."""
    assert cpu.unsupported(Inputs(*make(1, 16, 32, 2, 1, torch.float32), "silu")) == ""
    assert "float64" in cpu.unsupported(Inputs(*make(1, 16, 32, 2, 1, torch.float64), "silu"))
    assert "multiples of 16" in cpu.unsupported(Inputs(*make(1, 24, 16, 2, 1, torch.float32), "silu"))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_kernel_is_the_definition(data):
    draw = data.draw
    n, e, k = draw(st.sampled_from([0, 1, 3, 20, 49, 300])), draw(st.integers(2, 6)), draw(st.integers(1, 2))
    d, f = draw(st.sampled_from([16, 80, 144])), draw(st.sampled_from([16, 96, 336]))
    drop, activation = draw(st.sampled_from([0.0, 0.3, 1.0])), draw(st.sampled_from(sorted(ACTIVATIONS)))
    case = make(n, d, f, e, k, torch.float32, draw(st.integers(0, 1000)), drop, activation)
    if draw(st.booleans()):
        case[1][:] = torch.where(case[1] < 0, -1, draw(st.integers(0, e - 1)))  # all on one expert
    case = *case[:3], case[3] * d**-0.5, case[4], case[5] * f**-0.5, case[6]
    wide = [x.double() if x.is_floating_point() else x for x in case]
    output, kept = cpu.forward(Inputs(*case, activation), keep=True)
    expected, hidden = reference.forward(Inputs(*wide, activation), keep=True)
    torch.testing.assert_close(output.double(), expected, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(cpu.forward(Inputs(*case, activation), keep=False)[0], output, atol=2e-5, rtol=2e-5)
    grad = torch.randn_like(output)
    ours = cpu.backward(grad, kept, Inputs(*case, activation))
    for mine, definition in zip(
        ours, reference.backward(grad.double(), hidden, Inputs(*wide, activation)), strict=True
    ):
        torch.testing.assert_close(mine.double(), definition, atol=1e-4, rtol=1e-4)
    again = cpu.backward(grad, kept, Inputs(*case, activation))
    assert all(torch.equal(x, y) for x, y in zip(ours, again, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("n", [2, 40])
def test_what_is_not_finite_stays_with_its_frame(n, value):
    case = make(n, 16, 32, 2, 1, torch.float32)
    case[0][1, 3] = value
    output = cpu.forward(Inputs(*case, "silu"), keep=False)[0]
    assert not output[1].isfinite().all()
    assert output[torch.arange(n) != 1].isfinite().all()


@pytest.mark.parametrize("activation", sorted(cpu.ACTIVATIONS))
def test_large_scores_do_not_overflow(activation):
    x = torch.tensor([[-1e4], [-200.0], [200.0], [1e4]]).repeat(1, 16) / 16
    w1, w2 = torch.ones(2, 16, 16), torch.eye(16).expand(2, 16, 16).contiguous()
    case = x, torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1), w1, torch.zeros(2, 16), w2, torch.zeros(2, 16)
    expected = ACTIVATIONS[activation](x.sum(1, keepdim=True)).expand(4, 16)
    torch.testing.assert_close(cpu.forward(Inputs(*case, activation), keep=True)[0], expected, atol=1e-4, rtol=1e-5)


def test_without_a_compiler_the_definition_serves(monkeypatch, tmp_path):
    native.native.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    case = make(9, 16, 32, 3, 1, torch.float32)
    with pytest.warns(UserWarning, match=r"experts runs its plain .*: cpu\.cpp cannot be compiled: .*nowhere"):
        slow = expert_mlp(*case)
    monkeypatch.undo()
    native.native.cache_clear()
    torch.testing.assert_close(slow, expert_mlp(*case), atol=1e-4, rtol=1e-5)
