"""The Triton kernels of routed experts against their plain definition.

Without a CUDA device they run in Triton's interpreter, on small inputs (tests/conftest.py asks for it).
"""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.library import opcheck

from sigmel.layers.experts import ExpertFeedForward
from sigmel.ops import dispatch, expert_mlp
from sigmel.ops.experts import reference
from sigmel.ops.experts.reference import ACTIVATIONS, Inputs

pytest.importorskip("triton", reason="Triton is for Linux")
cuda = pytest.importorskip("sigmel.ops.experts.cuda")

DEVICE = "cpu" if cuda.INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ["output", "x", "gates", "w1", "b1", "w2", "b2"]


def make(frames, size, hidden, experts, choices=1, *, activation="silu", dtype=torch.float32, drop=0.0) -> Inputs:
    """Random frames and parameters as a layer has them; `drop` is how many choices are of no expert."""
    x = torch.randn(frames, size, device=DEVICE)
    gates, chosen = torch.rand(frames, experts, device=DEVICE).topk(choices, dim=-1)
    chosen[torch.rand(chosen.shape, device=DEVICE) < drop] = -1
    inner = reference.inner_size(hidden, activation)
    w1, w2 = torch.randn(experts, inner, size, device=DEVICE), torch.randn(experts, size, hidden, device=DEVICE)
    b1, b2 = torch.randn(experts, inner, device=DEVICE), torch.randn(experts, size, device=DEVICE)
    case = Inputs(x, chosen, gates, w1 * size**-0.5, b1, w2 * hidden**-0.5, b2, activation)
    return cast(case, dtype)


def cast(case: Inputs, dtype: torch.dtype) -> Inputs:
    """Gates stay as the router gives them."""
    x, chosen, gates, *parameters, activation = case
    return Inputs(x.to(dtype), chosen, gates, *(tensor.to(dtype) for tensor in parameters), activation)


def results(form, case: Inputs, grad: torch.Tensor) -> list[torch.Tensor]:
    """The output, and the gradients."""
    output, before = form.forward(case, keep=True)
    return [output, *form.backward(grad, before, case)]


def check(case: Inputs) -> None:
    """In half precision at most twice as far from float32 as plain operations are.

    These are taken to be off by a rounding at least: with few numbers they may be lucky. The gradient of a gate is a
    product of two vectors, whose terms are rounded however much they cancel.
    """
    grad = torch.randn(case.x.shape, device=DEVICE).to(case.x.dtype)
    ours, plain = results(cuda, case, grad), results(reference, case, grad)
    wide = torch.float64 if case.x.dtype == torch.float32 else torch.float32
    exact = results(reference, cast(case, wide), grad.to(wide))
    for name, a, b, c in zip(NAMES, ours, exact, plain, strict=True):
        assert a.shape == b.shape
        assert a.dtype == c.dtype
        largest = b.abs().max().item() if b.numel() else 0.0
        if wide == torch.float64:
            close = {"rtol": 1e-4, "atol": 5e-5 + 2e-6 * largest}  # sums over frames may cancel
            torch.testing.assert_close(a.to(wide), b.to(wide), **close, msg=lambda m, n=name: f"{n}: {m}")
        elif a.numel():
            error, allowed = (x.float().sub(b).abs().max().item() for x in (a, c))
            if name == "gates":
                norms = grad.float().norm(dim=1) * exact[0].float().norm(dim=1)
                largest = max(largest, norms.max().item() / case.x.shape[1] ** 0.5)
            rounding = torch.finfo(case.x.dtype).eps * largest
            assert error <= 2 * max(allowed, rounding) + 1e-5, (
                f"{name}: {error} from float32, plain operations {allowed}"
            )
    torch.testing.assert_close(cuda.forward(case, keep=False)[0], ours[0])


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # in the interpreter, shrinking takes minutes
)
@given(data=st.data())
def test_the_kernels_are_the_definition(data):
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 1000)))
    experts, choices = draw(st.integers(2, 5)), draw(st.integers(1, 2))
    frames, (size, hidden) = (
        draw(st.sampled_from([0, 1, 3, 17, 40])),
        draw(st.sampled_from([(3, 20), (16, 33), (33, 16)])),
    )
    activation, dtype = draw(st.sampled_from(sorted(ACTIVATIONS))), draw(st.sampled_from(DTYPES))
    drop = draw(st.sampled_from([0.0, 0.4, 1.0]))
    case = make(frames, size, hidden, experts, choices, activation=activation, dtype=dtype, drop=drop)
    if draw(st.booleans()):
        case.experts.copy_(torch.where(case.experts < 0, -1, draw(st.integers(0, experts - 1))))  # all on one
    check(case)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activations(activation):
    check(make(20, 17, 40, 3, activation=activation, drop=0.2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("frames", "choices"), [(1, 1), (1, 3), (40, 1), (40, 3)])
def test_frames_and_choices(frames, choices, dtype):
    check(make(frames, 32, 48, 4, choices, dtype=dtype, drop=0.2 if frames > 1 else 0.0))


def test_all_on_one_of_more_experts_than_are_looked_at_at_once():
    case = make(40, 16, 16, 150)
    case.experts.fill_(140)
    ours, exact = (form.forward(case, keep=False)[0] for form in (cuda, reference))
    torch.testing.assert_close(ours, exact, rtol=1e-4, atol=5e-5)


def test_large_scores_do_not_overflow():
    x = torch.tensor([[-1e4], [-200.0], [200.0], [1e4]], device=DEVICE).repeat(1, 16) / 16
    for activation in ("relu", "gelu", "silu"):
        case = make(4, 16, 16, 1, activation=activation)
        check(case._replace(x=x, w1=torch.ones_like(case.w1), b1=torch.zeros_like(case.b1)))


@pytest.mark.parametrize("bad", [-1, 3, 2**40, -(2**40)])
def test_frames_of_no_expert_are_not_looked_at(bad):
    """Nor are those of an expert that is not there."""
    case = make(20, 16, 20, 3)
    none = torch.arange(20, device=DEVICE) % 3 == 0
    case.experts[none] = bad
    case.x[none], case.gates[none] = torch.nan, torch.nan
    grad = torch.where(none[:, None], torch.nan, torch.randn_like(case.x))
    ours = results(cuda, case, grad)
    case.experts[none] = -1
    exact = results(reference, case._replace(x=case.x.nan_to_num(), gates=case.gates.nan_to_num()), grad.nan_to_num())
    for name, a, b in zip(NAMES, ours, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert all((a[none] == 0).all() for a in ours[:3])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_what_is_not_finite_stays_with_its_frame(activation, bad):
    case = make(20, 16, 20, 3, activation=activation)
    case.x[7, 3] = bad
    ours, exact = (results(form, case, torch.ones_like(case.x)) for form in (cuda, reference))
    for name, a, b in zip(NAMES, ours, exact, strict=True):
        assert (a.isfinite() == b.isfinite()).all(), name
    assert ours[0][torch.arange(20, device=DEVICE) != 7].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twice_the_same_bits(dtype):
    case = make(50, 32, 48, 3, 2, dtype=dtype, drop=0.1)
    grad = torch.randn_like(case.x)
    first, second = (results(cuda, case, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_any_strides():
    """Whatever views come, a sum's gradient among them."""
    case = make(20, 16, 20, 3, 2)
    odd = Inputs(*(t.mT.contiguous().mT if t.dim() > 1 else t for t in case[:7]), case.activation)
    assert not odd.w1.is_contiguous()
    grad = torch.ones((), device=DEVICE).expand(case.x.shape)
    for a, b in zip(results(cuda, odd, grad), results(reference, odd, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5)


def test_looks_at_no_value(monkeypatch):
    """Of tensors that have none."""
    monkeypatch.setattr(cuda._Call, "run", lambda *_, **__: None)
    with FakeTensorMode():
        case = make(20, 16, 20, 3)
        results(cuda, case, case.x)
        with pytest.raises(DynamicOutputShapeException):
            reference.forward(case, keep=False)


@pytest.fixture
def through_the_op(monkeypatch):
    """In the interpreter, too, which has no device to be chosen by."""
    monkeypatch.setattr(dispatch, "form", lambda *_: cuda)
    room = reference.kept  # of which what is not used may hold anything
    monkeypatch.setattr(reference, "kept", lambda inputs: room(inputs).zero_())


@pytest.mark.usefixtures("through_the_op")
def test_opcheck():
    x, chosen, *tensors, activation = make(6, 16, 16, 3, 2, drop=0.2)
    x, *tensors = (tensor.requires_grad_() for tensor in (x, *tensors))
    opcheck(torch.ops.sigmel.expert_mlp.default, (x, chosen, *tensors, activation, True))


@pytest.mark.usefixtures("through_the_op")
def test_compiled_with_gradients():
    case = make(20, 16, 20, 3, drop=0.2, activation="geglu")
    tensors = [case.x, case.gates, case.w1, case.b1, case.w2, case.b2]
    found = []
    for run in (
        expert_mlp,
        torch.compile(expert_mlp, fullgraph=True, backend="aot_eager" if DEVICE == "cpu" else "inductor"),
    ):
        x, gates, *parameters = leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        output = run(x, case.experts, gates, *parameters, case.activation)
        found.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.usefixtures("through_the_op")
def test_exported():
    case = make(20, 16, 20, 3, drop=0.2)

    class Model(ExpertFeedForward):
        def forward(self, x, experts, gates):
            return expert_mlp(x, experts, gates, self.w1, self.b1, self.w2, self.b2, self.activation)

    model = Model(16, 20, 3, "relu").to(DEVICE)
    program = torch.export.export(model, case[:3])
    assert torch.ops.sigmel.expert_mlp.default in {node.target for node in program.graph.nodes}
    torch.testing.assert_close(program.module()(*case[:3]), model(*case[:3]))


def test_what_serves_a_device():
    """Tensors without values need none."""
    with FakeTensorMode():
        tensors = (torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in make(3, 16, 20, 2)[:7])
        case = Inputs(*tensors, "silu")
        assert dispatch.form("sigmel.ops.experts", case) is cuda
        with pytest.warns(UserWarning, match=r"experts runs its plain .* on cuda, .*: torch.float64 has no kernel"):
            assert dispatch.form("sigmel.ops.experts", cast(case, torch.float64)) is reference


def test_unsupported():
    case = make(3, 16, 20, 2)
    assert cuda.unsupported(case) == cuda.unsupported(cast(case, torch.bfloat16)) == ""
    assert "float64" in cuda.unsupported(cast(case, torch.float64))
    assert "empty" in cuda.unsupported(make(3, 16, 0 + 1, 2)._replace(w2=case.w2[:, :, :0]))
    assert "0 experts" in cuda.unsupported(case._replace(w2=case.w2[:0]))


def test_tf32_only_where_torch_may_use_it():
    assert cuda._Call(make(3, 16, 20, 2)).shared["PRECISION"] == "ieee"
    torch.set_float32_matmul_precision("high")
    try:
        assert cuda._Call(make(3, 16, 20, 2)).shared["PRECISION"] == "tf32"
        assert cuda._Call(make(3, 16, 20, 2, dtype=torch.float16)).shared["PRECISION"] == "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")


COMPILE = """
import torch

from sigmel.ops.experts import cuda
from sigmel.ops.experts.reference import Inputs

capability, dtype, activation = int(sys.argv[1]), getattr(torch, sys.argv[2]), sys.argv[3]
compiled = set()


class Compiled:
    def __init__(self, kernel, blocks, choices, key):
        self.kernel, self.blocks, (*self.sizes, self.warps, self.stages) = kernel, blocks, choices[0]

    def __getitem__(self, grid):
        return self.launch

    def launch(self, **arguments):
        sizes = dict(zip(self.blocks, self.sizes, strict=True))
        binary = self.kernel.warmup(grid=(1,), **arguments, **sizes, num_warps=self.warps, num_stages=self.stages)
        assert binary.metadata.shared <= 227 * 1024 if capability == 90 else 99 * 1024, self.kernel.__name__
        compiled.add(self.kernel.__name__)


cuda.tuned = Compiled
for frames, size, hidden in ((8, 256, 512), (100, 256, 512), (1000, 256, 512), (1000, 250, 341)):
    inner = hidden * (2 if activation.endswith("glu") else 1)
    parameters = [torch.empty(2, *shape, dtype=dtype) for shape in ((inner, size), (inner,), (size, hidden), (size,))]
    x, chosen, gates = torch.empty(frames, size, dtype=dtype), torch.zeros(frames, 2).long(), torch.empty(frames, 2)
    case = Inputs(x, chosen, gates, *parameters, activation)
    output, before = cuda.forward(case, keep=True)
    cuda.backward(output, before, case)
assert compiled == {"up", "down", "back", "grad_weight", "grad_bias"}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "dtype", "activation"),
    [(80, "float16", "reglu"), (90, "bfloat16", "geglu"), (80, "float32", "silu")],
)
def test_compiles_for_a_device_that_is_not_here(capability, dtype, activation, compile_ahead):
    compile_ahead(COMPILE, capability, dtype, activation)


# On a device.


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("experts", "choices"), [(1, 1), (8, 1), (8, 2), (64, 1), (64, 4)])
def test_sizes_of_models(experts, choices, activation, dtype):
    for frames, size, hidden in [(1, 512, 2048), (100, 512, 2048), (3000, 512, 2048), (1000, 500, 1365)]:
        check(make(frames, size, hidden, experts, choices, activation=activation, dtype=dtype, drop=0.1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "swiglu"])
@pytest.mark.parametrize("frames", [20, 400, 3000], ids=cuda._BUCKETS)
def test_every_configuration(frames, activation, dtype, monkeypatch):
    from triton.runtime.errors import OutOfResources

    find, computed = cuda._choices, 0
    for number in range(4):
        monkeypatch.setattr(cuda, "_choices", lambda *asked, i=number: (find(*asked) * 4)[i:])
        try:
            check(make(frames, 256, 512, 8, activation=activation, dtype=dtype, drop=0.1))
            computed += 1
        except OutOfResources:  # which the tuner passes over
            assert number > 0
    assert computed >= 2


@pytest.mark.gpu
def test_tuned_and_twice_the_same(tuned):
    case = make(16000, 1024, 4096, 8, dtype=torch.bfloat16, drop=0.1)
    check(case)
    first, *others = (results(cuda, case, case.x) for _ in range(5))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.gpu
def test_waits_for_nothing():
    case = make(3000, 512, 2048, 8, 2, dtype=torch.bfloat16, drop=0.1)
    results(cuda, case, case.x)  # compiled now
    torch.cuda.set_sync_debug_mode("error")
    try:
        results(cuda, case, case.x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("frames", [16, 3000])
def test_captured_in_a_graph(frames):
    """And played again on other frames, which choose others."""
    case, other = (make(frames, 512, 2048, 8, 2, dtype=torch.bfloat16, drop=drop) for drop in (0.0, 0.5))
    other = other._replace(**{name: getattr(case, name) for name in ("w1", "b1", "w2", "b2")})
    results(cuda, case, case.x)  # compiled now
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        played = results(cuda, case, case.x)
    for mine, new in zip(case[:3], other[:3], strict=True):
        mine.copy_(new)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(played, results(cuda, other, other.x), strict=True))


@pytest.mark.gpu
@pytest.mark.slow
def test_more_elements_than_an_int32_counts():
    frames, size, hidden = 2**17 + 100, 64, 16384
    case = make(frames, size, hidden, 1, dtype=torch.bfloat16)
    end = case._replace(x=case.x[-100:], experts=case.experts[-100:], gates=case.gates[-100:])
    for a, b in zip(results(cuda, case, case.x)[:3], results(cuda, end, end.x)[:3], strict=True):
        torch.testing.assert_close(a[-100:], b, rtol=1e-2, atol=1e-2)
