"""Operators made of plain definitions: their schemas, and which form of an op serves a call."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sigmel.ops import dispatch, dmel_embed, expert_mlp, sigmoid_attention
from sigmel.ops.dmel import cpu as dmel
from sigmel.ops.experts import cpu as experts
from sigmel.ops.experts import reference
from sigmel.ops.experts.reference import Inputs
from sigmel.ops.sigmoid_attention import cpu as attention

# Programs that were exported and saved call operators by these names, with these arguments.
EXPERTS = "Tensor x, Tensor experts, Tensor gates, Tensor w1, Tensor b1, Tensor w2, Tensor b2, str activation"
ATTENTION = (
    "Tensor q, Tensor k, Tensor v, Tensor bias, Tensor? slopes, Tensor? cu_queries, Tensor? cu_keys, "
    "Tensor? query_lengths, Tensor? key_lengths, Tensor? query_start, Tensor? page_table, float scale, "
    "SymInt chunk, SymInt left, SymInt right"
)
SCHEMAS = [
    "dmel_embed(Tensor ids, Tensor tables) -> Tensor",
    "dmel_embed_backward(Tensor grad, Tensor ids, SymInt entries) -> Tensor",
    "dmel_encode(Tensor log_mel, Tensor edges) -> Tensor",
    "dmel_encode_spectrum(Tensor spectrum, Tensor filters, Tensor edges) -> Tensor",
    f"expert_mlp({EXPERTS}, bool keep) -> (Tensor, Tensor)",
    f"expert_mlp_backward(Tensor grad, Tensor before, {EXPERTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    f"sigmoid_attention({ATTENTION}) -> Tensor",
    f"sigmoid_attention_backward(Tensor grad, {ATTENTION}) -> (Tensor, Tensor, Tensor, Tensor)",
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.partition("(")[0])
def test_names_and_schemas_stay(schema):
    op = getattr(torch.ops.sigmel, schema.partition("(")[0]).default
    assert str(op._schema) == f"sigmel::{schema}"


def attend(dtype, size=16):
    q = torch.randn(1, 1, 3, size).to(dtype)
    return sigmoid_attention(q, q, q)


def feed_forward(dtype, size=16):
    w = torch.randn(2, size, size).to(dtype)
    x, b = torch.randn(5, size).to(dtype), torch.zeros(2, size, dtype=dtype)
    return expert_mlp(x, torch.zeros(5, 1, dtype=torch.int64), torch.ones(5, 1), w, b, w, b)


def embed(dtype, size=16):
    return dmel_embed(torch.zeros(5, 3, dtype=torch.uint8), torch.randn(3, 4, size).to(dtype))


@pytest.fixture
def nothing_said():
    dispatch.warn_once.cache_clear()


@pytest.mark.usefixtures("nothing_said")
@pytest.mark.parametrize("call", [attend, feed_forward, embed])
def test_every_op_says_once_why_its_kernel_does_not_serve(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(torch.float32)
    with pytest.warns(UserWarning, match=r"runs its plain PyTorch definition on cpu, .*: torch.float64 has no kernel"):
        call(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(torch.float64)


@pytest.mark.usefixtures("nothing_said")
def test_sizes_that_a_kernel_does_not_take_are_told():
    with pytest.warns(UserWarning, match=r"experts runs its plain .*layers are not multiples of 16"):
        feed_forward(torch.float32, size=12)


@pytest.mark.usefixtures("nothing_said")
@pytest.mark.parametrize("module", [attention, experts, dmel], ids=lambda module: module.__name__)
def test_a_device_without_a_kernel_is_told(module):
    package = module.__name__.rpartition(".")[0]
    with FakeTensorMode(), pytest.warns(UserWarning, match=r"on xpu, .*: there is no kernel for xpu"):
        form = dispatch.form(package, [torch.empty(3, device="xpu")])
    assert form.__name__ == f"{package}.reference"


@pytest.mark.usefixtures("nothing_said")
def test_a_kernel_whose_library_is_missing_is_told(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr(dispatch, "import_module", missing)
    dispatch._kernel.cache_clear()
    assert dispatch._kernel("sigmel.ops.experts", "cuda") == (None, "No module named 'triton'")
    dispatch._kernel.cache_clear()


@pytest.mark.parametrize("size", [12, 16])
def test_what_is_kept_has_one_shape_with_and_without_a_compiler(monkeypatch, size):
    """A training graph that is traced on one machine may run on another."""
    x, w = torch.randn(5, size), torch.randn(2, size, size)
    case = Inputs(x, torch.ones(5, 1, dtype=torch.int64), torch.ones(5, 1), w, w[:, 0], w, w[:, 0], "silu")
    op, grad = torch.ops.sigmel.expert_mlp, torch.randn(5, size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        traced = op(*case, True)[1].shape
    outputs, gradients = [], []
    for compiler in (True, False):
        if not compiler:
            monkeypatch.setattr(experts, "unsupported", lambda _: "this machine has no compiler")
        output, before = op(*case, True)
        assert before.shape == traced
        outputs.append(output)
        gradients.append(torch.ops.sigmel.expert_mlp_backward(grad, before, *case))
        assert reference.kept(case).shape == traced
    for ours, theirs in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
