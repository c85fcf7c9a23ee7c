"""The Triton kernels of sigmoid attention against its plain definition.

Without a CUDA device they run in Triton's interpreter, on small inputs (tests/conftest.py asks for it).
"""

import itertools

import pytest
import torch

from sigmel.ops.sigmoid_attention import reference
from sigmel.ops.sigmoid_attention.reference import Context, Inputs, Layout

pytest.importorskip("triton", reason="Triton is for Linux")
cuda = pytest.importorskip("sigmel.ops.sigmoid_attention.cuda")

DEVICE = "cpu" if cuda.INTERPRETED else "cuda"

FULL, CAUSAL = Context(), Context(1, -1, 0)
CHUNKED, WINDOW = Context(8, 16, 0), Context(1, 9, 5)
CONTEXTS = {
    "full": FULL,
    "causal": CAUSAL,
    "chunked": CHUNKED,
    "chunks": Context(12, -1, 0),
    "window": WINDOW,
    "ahead": Context(1, 0, -1),
    "narrow": Context(1, 0, 0),
    "look-ahead": Context(16, 7, 3),
}


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    return inputs._replace(q=inputs.q.to(dtype), k=inputs.k.to(dtype), v=inputs.v.to(dtype))


def make(
    batch, heads, queries, keys, size, dtype, context=FULL, *,
    group=1, alibi=False, lengths=None, start=None, cu=None,
) -> Inputs:  # fmt: skip
    """A case as the layers make it: (B, T, H, D) seen as (B, H, T, D), or packed (T, H, D) seen as (1, H, T, D)."""
    q = torch.randn(batch, queries, heads, size, device=DEVICE).to(dtype).transpose(1, 2)
    k, v = (torch.randn(batch, keys, heads // group, size, device=DEVICE).to(dtype).transpose(1, 2) for _ in "kv")
    tensors = [None if x is None else torch.tensor(x, device=DEVICE) for x in (*(cu or (None,) * 2), start)]
    query_lengths, key_lengths = (torch.tensor(x, device=DEVICE) for x in lengths) if lengths else (None, None)
    sequences = batch if cu is None else len(cu[0]) - 1
    bias = torch.empty(sequences, heads, device=DEVICE).uniform_(-10, 2)  # as the authors do
    slopes = torch.rand(heads, device=DEVICE) / 4 if alibi else None
    layout = Layout(tensors[0], tensors[1], query_lengths, key_lengths, tensors[2])
    return Inputs(q, k, v, bias, slopes, layout, size**-0.5, context)


def plain(case: Inputs, grad: torch.Tensor) -> list[torch.Tensor]:
    """The output and the gradients that PyTorch's own operations give in the type of q, k and v, rounding each."""
    q, k, v = (x.detach().requires_grad_() for x in (case.q, case.k, case.v))
    bias = case.bias.detach().requires_grad_()
    group = q.shape[1] // k.shape[1]
    output = 0 * q
    for n, (row, queries, keys, start) in enumerate(case.layout.sequences(q, k)):
        query = q[row, :, queries]
        key, value = (x[row, :, keys].repeat_interleave(group, 0) for x in (k, v))
        p = start + torch.arange(query.shape[1], device=q.device)
        at = torch.arange(key.shape[1], device=q.device)
        scores = case.scale * (query @ key.transpose(1, 2)) + bias[n, :, None, None].to(q.dtype)
        if case.slopes is not None:
            scores = scores - (case.slopes[:, None, None] * (p[:, None] - at).abs()).to(q.dtype)
        weights = torch.where(case.context.mask(p, at), torch.sigmoid(scores), 0.0).to(q.dtype)
        place = torch.zeros_like(output)
        place[row, :, queries] = weights @ value
        output = output + place
    output.backward(grad)
    return [output.detach(), q.grad, k.grad, v.grad, bias.grad]


def check(case: Inputs) -> None:
    """The authors' rule: at most twice as far from the float32 result as plain operations in half precision are."""
    grad = torch.randn(case.q.shape, device=DEVICE).to(case.q.dtype)
    ours = [cuda.forward(case), *cuda.backward(grad, case)]
    wide = cast(case, torch.float32)
    exact = [reference.forward(wide), *reference.backward(grad.float(), wide)]
    assert ours[0].stride() == torch.empty_like(case.q).stride()
    half = case.q.dtype != torch.float32
    rough = plain(case, grad) if half else exact
    for name, a, b, c in zip(("output", "q", "k", "v", "bias"), ours, exact, rough, strict=True):
        assert a.shape == b.shape
        assert a.dtype == c.dtype
        if half:
            error, allowed = (x.float().sub(b).abs().max().item() if b.numel() else 0.0 for x in (a, c))
            assert error <= 2 * allowed + 1e-5, f"{name}: {error} from float32, plain operations {allowed}"
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [16, 32, 64, 80, 128, 256])
def test_head_sizes(size, dtype):
    check(make(1, 1, 33, 41, size, dtype, CAUSAL))


@pytest.mark.parametrize("size", [1, 24, 40])
def test_odd_head_sizes(size):
    check(make(1, 1, 17, 33, size, torch.float32))


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 33), (33, 1), (17, 33), (64, 64), (65, 31), (113, 203)])
@pytest.mark.parametrize("context", ["full", "causal"])
def test_lengths(context, queries, keys):
    check(make(1, 1, queries, keys, 32, torch.bfloat16, CONTEXTS[context]))


@pytest.mark.parametrize("context", CONTEXTS)
def test_contexts(context):
    check(make(1, 1, 70, 90, 32, torch.bfloat16, CONTEXTS[context]))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("blocks", [(16, 64), (64, 16)], ids=str)
def test_contexts_with_any_blocks(context, blocks, monkeypatch):
    monkeypatch.setattr(cuda, "_choices", lambda *_: ((*blocks, 4, 1),))
    for queries, keys, start in ((40, 70, 31), (70, 40, 0), (7, 100, 90)):
        check(make(1, 1, queries, keys, 16, torch.float32, CONTEXTS[context], start=[start]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group", [1, 2, 4], ids=["MHA", "GQA", "MQA"])
def test_grouped_queries_and_alibi(group, dtype):
    check(make(1, 4, 20, 40, 32, dtype, WINDOW, group=group, alibi=True))


@pytest.mark.parametrize("context", ["full", "causal", "chunked"])
def test_padded(context):
    lengths = ([40, 0, 33, 17], [50, 50, 0, 33])
    check(make(4, 1, 40, 50, 32, torch.bfloat16, CONTEXTS[context], lengths=lengths, start=[0, 3, 5, 16]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("context", ["full", "causal", "chunked"])
def test_packed(context, dtype):
    cu = ([0, 0, 33, 34, 66, 66, 90], [0, 5, 38, 90, 90, 90, 120])
    heads = 2 if context == "full" else 1
    case = make(1, heads, 90, 120, 32, dtype, CONTEXTS[context], cu=cu, start=[0, 0, 51, 3, 7, 6])
    assert case.q.is_contiguous() == (heads == 1)
    check(case)


def test_packed_equals_each_sequence_alone():
    cu = [0, 31, 31, 77, 110]
    case = make(1, 2, 110, 110, 32, torch.float32, CAUSAL, cu=(cu, cu))
    output = cuda.forward(case)
    for n, (first, end) in enumerate(itertools.pairwise(cu)):
        q, k, v = (x[:, :, first:end] for x in case[:3])
        alone = cuda.forward(case._replace(q=q, k=k, v=v, bias=case.bias[n : n + 1], layout=Layout(*[None] * 5)))
        torch.testing.assert_close(output[:, :, first:end], alone, rtol=0, atol=0)


def test_many_packed_sequences():
    """More than are looked at at once."""
    cu = [0, 0, *range(130), 139]
    case = make(1, 1, cu[-1], cu[-1], 16, torch.float32, cu=(cu, cu))
    torch.testing.assert_close(cuda.forward(case), reference.forward(case), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cu", [None, [0, 20, 50]], ids=["padded", "packed"])
def test_what_does_not_exist_is_zero(cu):
    """And is not looked at: NaN there reaches nothing."""
    case = make(2, 2, 60, 60, 16, torch.float32, CAUSAL, lengths=([20, 35], [20, 35]))
    if cu:  # that end before the rows do
        case = make(1, 2, 60, 60, 16, torch.float32, CAUSAL, cu=(cu, cu))
    for row, queries, keys, _ in case.layout.sequences(case.q, case.k):
        if not cu or queries.stop == 50:
            case.q[row, :, queries.stop :] = torch.nan
            case.k[row, :, keys.stop :] = case.v[row, :, keys.stop :] = torch.nan
    grad = torch.where(case.q.isnan(), torch.nan, torch.randn_like(case.q))
    ours = [cuda.forward(case), *cuda.backward(grad, case)]
    for a, b in zip(ours, [reference.forward(case), *reference.backward(grad, case)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (ours[0][-1, :, 50:] == 0).all()
    assert all((g[-1, :, 50:] == 0).all() for g in ours[1:4])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", ["q", "k", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nan_and_infinity_go_where_they_do_in_the_reference(which, bad, dtype):
    case = make(1, 1, 20, 40, 16, dtype)
    getattr(case, which)[0, 0, 11, 3] = bad
    grad = torch.randn_like(case.q)
    ours = [cuda.forward(case), *cuda.backward(grad, case)]
    exact = [reference.forward(case), *reference.backward(grad, case)]
    for name, a, b in zip(("output", "q", "k", "v", "bias"), ours, exact, strict=True):
        assert (a.isfinite() == b.isfinite()).all(), name
        assert (a.isnan() == b.isnan()).all(), name


def test_nan_of_a_key_stays_with_the_queries_that_see_its_block():
    """Where the reference multiplies it by a weight of zero; nothing hangs, and no query that sees it misses it."""
    case = make(1, 1, 90, 90, 16, torch.float32, CAUSAL)
    case.v[0, 0, 40] = torch.nan
    output = cuda.forward(case)
    assert output[0, 0, 40:].isnan().all()
    assert not output[0, 0, :32].isnan().any()


@pytest.mark.parametrize("cu", [None, [0, 40, 40, 97]], ids=["padded", "packed"])
def test_twice_the_same_bits(cu):
    lengths = None if cu else ([97], [60])
    both = (cu, cu) if cu else None
    case = make(1, 1, 97, 97, 32, torch.bfloat16, CHUNKED, lengths=lengths, cu=both)
    grad = torch.randn_like(case.q)
    first, second = ([cuda.forward(case), *cuda.backward(grad, case)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("queries", "context"), [(1, "full"), (1, "window"), (5, "causal"), (16, "chunked")])
def test_few_queries_over_pieces_of_the_keys(queries, context):
    case = make(1, 2, queries, 300, 32, torch.bfloat16, CONTEXTS[context], start=[280], group=2)
    assert cuda._splits(case) > 1
    check(case)
    assert torch.equal(cuda.forward(case), cuda.forward(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("queries", "context"), [(1, "full"), (5, "causal"), (40, "window")])
def test_keys_in_pages(queries, context, dtype):
    """Pages of 17 keys, of which no block is a multiple, in any order; what lies beyond a length is no page."""
    case = make(2, 2, queries, 17, 32, dtype, CONTEXTS[context], group=2, start=[130 - queries, 60 - queries])
    k, v = (torch.randn(20, 1, 17, 32, device=DEVICE).to(dtype) for _ in "kv")
    table = torch.randperm(20, device=DEVICE)[:16].view(2, 8)
    table[1, 4:] = 10**6
    layout = case.layout._replace(key_lengths=torch.tensor([130, 60], device=DEVICE), page_table=table)
    case = case._replace(k=k, v=v, layout=layout)
    close = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(cuda.forward(case), reference.forward(case), **close)


def test_few_packed_queries_over_pieces_of_the_keys():
    cu = ([0, 1, 1, 4], [0, 200, 301, 450])
    case = make(1, 1, 4, 450, 32, torch.float32, CAUSAL, cu=cu, start=[199, 0, 146])
    assert cuda._splits(case) > 1
    check(case)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 2, 0, 4), (2, 2, 4, 0), (0, 2, 0, 0)])
def test_nothing(shape):
    batch, heads, queries, keys = shape
    check(make(batch, heads, queries, keys, 16, torch.float32))


def test_any_strides():
    """Whatever views layers and autograd come with, a sum's gradient among them."""
    case = make(2, 2, 20, 20, 16, torch.float32)
    odd = case._replace(
        q=case.q.transpose(2, 3).contiguous().transpose(2, 3),
        k=case.k.repeat_interleave(2, 3)[..., ::2],
        v=case.v[:, :1].expand(-1, 2, -1, -1),
        bias=torch.tensor(-3.0, device=DEVICE).expand(2, 2),
        slopes=torch.rand(4, device=DEVICE)[::2],
    )
    grad = torch.ones((), device=DEVICE).expand(case.q.shape)
    ours = [cuda.forward(odd), *cuda.backward(grad, odd)]
    for a, b in zip(ours, [reference.forward(odd), *reference.backward(grad, odd)], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_unsupported():
    case = make(1, 1, 1, 1, 64, torch.float32)
    assert all(cuda.unsupported(cast(case, dtype)) == "" for dtype in DTYPES)
    assert "float64" in cuda.unsupported(cast(case, torch.float64))
    assert "257" in cuda.unsupported(make(1, 1, 1, 1, 257, torch.float32))
    assert "0" in cuda.unsupported(case._replace(q=case.q[..., :0]))


COMPILE = """
import torch

from sigmel.ops.sigmoid_attention import cuda, triton_kernels
from sigmel.ops.sigmoid_attention.reference import Context, Inputs, Layout

capability, half = int(sys.argv[1]), sys.argv[2] == "half"
kernels = {
    "forward": ("out",),
    "backward_queries": ("grad", "grad_q"),
    "backward_keys": ("grad", "grad_k", "grad_v"),
}
for width in (64, 256) if half else (64,):
    q = torch.empty(1000, 4, width, dtype=torch.bfloat16 if half else torch.float32).transpose(0, 1)[None]
    cu, bias, slopes = torch.tensor([0, 400, 1000]), torch.empty(2, 4), torch.empty(4)
    shared = cuda._shared(Inputs(q, q, q, bias, slopes, Layout(cu, cu, None, None, None), 0.1, Context(8, 16, 0)))
    for name, tensors in kernels.items():
        arguments = shared | {"heads": 4} | dict.fromkeys(tensors, q)
        arguments |= {f"{tensor}_strides": q.stride() for tensor in tensors}
        if name == "forward":
            arguments |= {"splits": 1, "split_stride": 0, "page_table": None, "page_size": 1}
        if name == "backward_queries":
            arguments["sums"] = bias
        queries, keys, warps, stages = cuda._choices(name, width, half)[0]
        compiled = getattr(triton_kernels, name).warmup(
            grid=(1,), BLOCK_Q=queries, BLOCK_K=keys, num_warps=warps, num_stages=stages, **arguments
        )
        assert compiled.metadata.shared <= 227 * 1024 if capability == 90 else 99 * 1024, (name, width)
        assert ("tanh.approx" in compiled.asm["ptx"]) == (half and cuda.HARDWARE_TANH)
        if name == "forward" and width == 64:  # and over pages
            paged = Inputs(q[0, :, None, :100], q, q, bias, slopes, Layout(None, None, None, cu, cu), 0.1, Context())
            arguments |= cuda._shared(paged) | {"page_table": cu, "page_size": 16}
            getattr(triton_kernels, name).warmup(
                grid=(1,), BLOCK_Q=queries, BLOCK_K=keys, num_warps=warps, num_stages=stages, **arguments
            )
"""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "kind"), [(80, "half"), (90, "half"), (80, "single")])
def test_compiles_for_a_device_that_is_not_here(capability, kind, compile_ahead):
    compile_ahead(COMPILE, capability, kind)


# On a device.


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [32, 64, 96, 128, 160, 256])
@pytest.mark.parametrize("context", ["full", "causal", "window", "chunked"])
@pytest.mark.parametrize(("group", "alibi"), [(1, False), (3, False), (6, True)], ids=["MHA", "GQA", "MQA with ALiBi"])
def test_grid_of_the_authors(group, alibi, context, size, dtype):
    for queries, keys in [(113, 203), (128, 217), (108, 256), (512, 256), (1023, 1024), (1024, 1023), (2048, 2048)]:
        check(make(2, 6, queries, keys, size, dtype, CONTEXTS[context], group=group, alibi=alibi))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [64, 128, 256])
def test_every_configuration(size, dtype, monkeypatch):
    from triton.runtime.errors import OutOfResources

    half, computed = dtype != torch.float32, 0
    tables = {name: cuda._choices(name, size, half) for name in cuda._HALF}
    for number in range(max(len(choices) for choices in tables.values())):
        chosen = {name: choices[min(number, len(choices) - 1)] for name, choices in tables.items()}
        monkeypatch.setattr(cuda, "_choices", lambda name, *_, chosen=chosen: (chosen[name],))
        for queries in (16, 333):
            try:
                check(make(2, 2, queries, 400, size, dtype, CHUNKED, start=[0, 100]))
                computed += 1
            except OutOfResources:  # which the tuner passes over
                assert number > 0
    assert computed >= 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("keys", [100, 1000, 10000])
def test_weights_near_one_over_n(keys, dtype):
    """Where 0.5 tanh + 0.5 is the small difference of two large numbers, and tanh is one instruction."""
    case = make(1, 4, 500, keys, 64, dtype)
    check(case._replace(bias=torch.full_like(case.bias, -torch.tensor(float(keys)).log().item())))


@pytest.mark.gpu
@pytest.mark.parametrize("cu", [None, [0, 700, 700, 1901, 3000]], ids=["padded", "packed"])
def test_tuned_long_and_twice_the_same(cu, tuned):
    both, lengths = ((cu, cu), None) if cu else (None, ([3000, 0, 1234], [3000, 17, 2222]))
    case = make(1 if cu else 3, 4, 3000, 3000, 64, torch.bfloat16, CAUSAL, cu=both, lengths=lengths, group=2)
    check(case)
    grad = torch.randn_like(case.q)
    first, *others = ([cuda.forward(case), *cuda.backward(grad, case)] for _ in range(5))
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("cu", [None, [0, 700, 1000]], ids=["padded", "packed"])
@pytest.mark.parametrize("queries", [1, 1000])
def test_waits_for_nothing(queries, cu):
    both, lengths = ((cu, cu), None) if cu else (None, ([queries, 0], [1000, 17]))
    case = make(1 if cu else 2, 4, 1000 if cu else queries, 1000, 64, torch.bfloat16, cu=both, lengths=lengths)
    grad = torch.randn_like(case.q)
    cuda.forward(case), cuda.backward(grad, case)  # compiled now
    torch.cuda.set_sync_debug_mode("error")
    try:
        cuda.forward(case), cuda.backward(grad, case)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.slow
def test_more_elements_than_an_int32_counts():
    length, size = 2**23 + 64, 256
    case = make(1, 1, length, length, size, torch.bfloat16, WINDOW)
    output, (_, grad_k, _, _) = cuda.forward(case), cuda.backward(case.q, case)
    end = [x[:, :, -96:].contiguous() for x in case[:3]]
    alone = case._replace(q=end[0], k=end[1], v=end[2])
    torch.testing.assert_close(output[:, :, -64:], cuda.forward(alone)[:, :, -64:], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grad_k[:, :, -64:], cuda.backward(end[0], alone)[1][:, :, -64:], rtol=1e-2, atol=1e-2)
