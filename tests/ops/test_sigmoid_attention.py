"""The op against its plain definition, and that against the paper's formula."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

from sigmel.ops import native, sigmoid_attention, sigmoid_attention_decode, sigmoid_attention_varlen
from sigmel.ops.sigmoid_attention import cpu, reference
from sigmel.ops.sigmoid_attention.reference import Context, Inputs, Layout

CONTEXTS = [Context(), Context(1, -1, 0), Context(8, 16, 0), Context(1, 10, 5), Context(1, 0, -1), Context(5, -1, 0)]
WHOLE = Layout(None, None, None, None, None)


def inputs(batch=2, heads=4, key_heads=2, queries=9, keys=11, size=16, dtype=torch.float64):
    shapes = ((heads, queries), (key_heads, keys), (key_heads, keys))
    return [torch.randn(batch, h, t, size, dtype=dtype, requires_grad=True) for h, t in shapes]


def test_the_formula_of_the_paper():
    q, k, v = inputs(key_heads=4)
    expected = torch.sigmoid(q @ k.mT / math.sqrt(16) - math.log(11)) @ v
    torch.testing.assert_close(sigmoid_attention(q, k, v), expected)


def test_the_bias_follows_the_length_of_each_utterance():
    q, k, v = inputs()
    lengths = torch.tensor([11, 4])
    together = sigmoid_attention(q, k, v, key_lengths=lengths)
    for n, length in enumerate(lengths):
        alone = sigmoid_attention(q[n : n + 1], k[n : n + 1, :, :length], v[n : n + 1, :, :length])
        torch.testing.assert_close(together[n : n + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_packed_sequences_give_what_each_gives_alone(dtype):
    lengths = [5, 0, 1, 70]
    cu = torch.tensor([0, 5, 5, 6, 76])
    q, k, v = (torch.randn(76, heads, 20, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
    packed = sigmoid_attention_varlen(q, k, v, cu, cu, causal=True)
    parts = [x.split(lengths) for x in (q, k, v)]
    alone = [
        sigmoid_attention(*(x.transpose(0, 1)[None] for x in part), causal=True)[0].transpose(0, 1)
        for part in zip(*parts, strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(packed)
    for ours, theirs in zip(
        torch.autograd.grad(packed, (q, k, v), grad),
        torch.autograd.grad(torch.cat(alone), (q, k, v), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "lower", "upper"),
    [
        ({"causal": True}, None, 0),
        ({"window": (2, 1)}, -2, 1),
        ({"window": (-1, 3)}, None, 3),
    ],
)
def test_masks(options, lower, upper):
    q, k, v = inputs(key_heads=4, queries=11)
    weights = torch.sigmoid(q @ k.mT / 4 - math.log(11))
    distance = torch.arange(11) - torch.arange(11)[:, None]
    seen = (distance <= upper) & (True if lower is None else distance >= lower)
    torch.testing.assert_close(sigmoid_attention(q, k, v, **options), (weights * seen) @ v)


def test_chunks_see_themselves_and_their_left_context():
    q, k, v = inputs(key_heads=4, queries=11)
    chunk = torch.arange(11) // 3
    keys = torch.arange(11)
    seen = (chunk <= chunk[:, None]) & (keys >= 3 * chunk[:, None] - 2)
    expected = (torch.sigmoid(q @ k.mT / 4 - math.log(11)) * seen) @ v
    torch.testing.assert_close(sigmoid_attention(q, k, v, chunk_size=3, left_context=2), expected)


def test_a_cache_continues_where_the_queries_stand():
    q, k, v = inputs(queries=11)
    whole = sigmoid_attention(q, k, v, causal=True, bias=-2.0)
    last = sigmoid_attention(q[:, :, 8:], k, v, causal=True, bias=-2.0, query_start=torch.tensor([8, 8]))
    torch.testing.assert_close(last, whole[:, :, 8:])


def in_pages(x, size, number):
    """(B, H, T, D) scattered over the pages of a cache that holds other things as well, and its page table."""
    batch, _, keys, _ = x.shape
    pages = -(-keys // size)
    table = torch.randperm(number)[: batch * pages].view(batch, pages)
    cache = torch.full((number, x.shape[1], size, x.shape[3]), math.nan, dtype=x.dtype)
    for n, t in itertools.product(range(batch), range(keys)):
        cache[table[n, t // size], :, t % size] = x[n, :, t]
    return cache, table


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_decoding_over_pages_is_the_end_of_the_whole(data):
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 10**6)))
    queries, keys = draw(st.sampled_from([1, 2, 7, 30])), draw(st.sampled_from([30, 97, 250]))
    size = draw(st.sampled_from([7, 64]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    q, k, v = (x.detach() for x in inputs(3, queries=keys, keys=keys, size=size, dtype=dtype))
    lengths = torch.tensor([keys, queries, (keys + queries) // 2])
    newest = torch.stack([q[n, :, length - queries : length] for n, length in enumerate(lengths)])
    options = {"left_context": draw(st.sampled_from([None, 0, 20])), "alibi_slopes": torch.rand(4, dtype=dtype)}
    whole = sigmoid_attention(q, k, v, causal=True, key_lengths=lengths, **options)
    expected = torch.stack([whole[n, :, length - queries : length] for n, length in enumerate(lengths)])
    page = draw(st.sampled_from([1, 16, 33]))
    state = torch.get_rng_state()
    k_cache, table = in_pages(k, page, 3 * (-(-keys // page)) + 2)
    torch.set_rng_state(state)
    v_cache, _ = in_pages(v, page, len(k_cache))
    table = torch.where(torch.arange(table.shape[1]) * page < lengths[:, None], table, -5)  # what is not looked at
    close = {"atol": 0.02, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(sigmoid_attention_decode(newest, k, v, lengths, **options), expected, **close)
    paged = sigmoid_attention_decode(newest, k_cache, v_cache, lengths, page_table=table, **options)
    torch.testing.assert_close(paged, expected, **close)


def test_a_cache_in_pages_has_no_gradient():
    q, k, v = inputs(keys=12)
    table, lengths = torch.tensor([[0], [1]]), torch.tensor([12, 9])
    with pytest.raises(RuntimeError, match="over pages has no gradient"):
        sigmoid_attention_decode(q, k, v, lengths, page_table=table).sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"page_table": torch.tensor([[0], [2]])}, "page_table: pages 0 to 2, but k_cache has 2"),
        ({"page_table": torch.tensor([0, 1])}, r"page_table: torch.int64 of shape \(2,\), expected"),
        ({"key_lengths": torch.tensor([12, 3])}, r"key_lengths: \[12, 3\] must lie between 0 and 11"),
    ],
)
def test_caches_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_attention_decode(*inputs(), **{"key_lengths": torch.tensor([11, 3])} | options)


def test_alibi_takes_from_the_score_by_distance():
    q, k, v = inputs(key_heads=4, queries=11)
    slopes = torch.rand(4, dtype=torch.float64)
    distance = (torch.arange(11)[:, None] - torch.arange(11)).abs()
    scores = q @ k.mT / 4 - slopes[:, None, None] * distance - 1.5
    torch.testing.assert_close(sigmoid_attention(q, k, v, alibi_slopes=slopes, bias=-1.5), torch.sigmoid(scores) @ v)


@pytest.mark.parametrize("shape", [(), (4,), (2, 1), (2, 4)])
def test_the_bias_may_be_learned(shape):
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    lengths = {"key_lengths": torch.tensor([11, 6]), "query_lengths": torch.tensor([9, 3])}
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: sigmoid_attention(q, k, v, bias=bias, chunk_size=3, left_context=4, **lengths),
        (*inputs(size=4), bias),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_accepts_the_op(dtype):
    q, k, v = inputs(dtype=dtype)
    bias = torch.randn(2, 4, dtype=dtype, requires_grad=True)
    lengths = torch.tensor([11, 6])
    arguments = (q, k, v, bias, None, None, None, None, lengths, None, None, 0.25, 1, -1, 0)
    opcheck(torch.ops.sigmel.sigmoid_attention, arguments)
    table = torch.tensor([[0], [1]])
    paged = (*(x.detach() for x in arguments[:4]), None, None, None, None, lengths, lengths - 9, table, 0.25, 1, -1, 0)
    opcheck(torch.ops.sigmel.sigmoid_attention, paged)


def test_it_compiles_and_exports_without_a_break():
    class Attend(torch.nn.Module):
        def forward(self, q, k, v, lengths):
            return sigmoid_attention(q, k, v, key_lengths=lengths, causal=True)

    tensors = *(x.detach() for x in inputs(dtype=torch.float32)), torch.tensor([11, 6])
    expected = Attend()(*tensors)
    torch.testing.assert_close(torch.compile(Attend(), fullgraph=True, backend="aot_eager")(*tensors), expected)
    torch.testing.assert_close(torch.export.export(Attend(), tensors).module()(*tensors), expected)


def test_packed_sequences_and_caches_compile_without_a_break():
    def attend(q, k, v, cu, lengths, table):
        packed = sigmoid_attention_varlen(q, q, q, cu, cu, causal=True)
        cache = sigmoid_attention_decode(k[:, :, :2], k, v, lengths)
        return packed, cache, sigmoid_attention_decode(k[:, :, :2], k, v, lengths, page_table=table)

    q, k, v = torch.randn(9, 2, 16), *(x.detach() for x in inputs(heads=2, dtype=torch.float32)[1:])
    tensors = q, k, v, torch.tensor([0, 4, 9]), torch.tensor([11, 6]), torch.tensor([[1], [0]])
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")(*tensors)
    for ours, expected in zip(compiled, attend(*tensors), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"key_lengths": torch.tensor([12, 3])}, r"key_lengths: \[12, 3\] must lie between 0 and 11"),
        ({"page_table": torch.tensor([[0], [7]])}, "page_table: pages 0 to 7, but k_cache has 2"),
    ],
)
def test_a_compiled_graph_does_not_read_astray(layout, message):
    q, k, v = (x.detach() for x in inputs(heads=2, dtype=torch.float32)[:3])
    q, lengths = q[:, :, :2], layout.get("key_lengths", torch.tensor([11, 3]))
    table = layout.get("page_table")

    @torch.compile(fullgraph=True, backend="aot_eager")
    def decode(q, k, v, lengths, table):
        return sigmoid_attention_decode(q, k, v, lengths, page_table=table)

    with pytest.raises(ValueError, match=message):
        decode(q, k, v, lengths, table)


def test_autocast_decides_the_dtype():
    q, k, v = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = sigmoid_attention(q, k, v)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), sigmoid_attention(q, k, v), atol=0.02, rtol=0.02)


def test_autocast_knows_a_tensor_that_is_used_again():
    q, k, v = inputs(key_heads=4, queries=11, dtype=torch.float32)

    def twice():
        return sigmoid_attention(q, k, v) + sigmoid_attention(v, k, q, causal=True)

    expected = torch.autograd.grad(twice().square().sum(), (q, k, v))
    with torch.autocast("cpu", torch.bfloat16):
        output = twice()
    for ours, theirs in zip(torch.autograd.grad(output.float().square().sum(), (q, k, v)), expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_under_a_checkpoint():
    tensors = inputs(dtype=torch.float32)
    plain = torch.autograd.grad(sigmoid_attention(*tensors).square().sum(), tensors)
    output = checkpoint(sigmoid_attention, *tensors, use_reentrant=False)
    for ours, expected in zip(torch.autograd.grad(output.square().sum(), tensors), plain, strict=True):
        torch.testing.assert_close(ours, expected)


# --- The compiled kernel


def test_the_kernel_is_there():
    """Else the tests below would compare the definition with itself."""
    q = torch.zeros(1, 1, 1, 16)
    assert cpu.unsupported(Inputs(q, q, q, q[0, 0], None, WHOLE, 1.0, Context())) == ""


def close(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=2e-5)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_kernel_is_the_definition(data):
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 10**6)))
    batch, key_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    queries, keys = (draw(st.sampled_from([1, 5, 16, 47, 49, 150, 400])) for _ in range(2))
    size, context = draw(st.sampled_from([7, 16, 40, 64, 128])), draw(st.sampled_from(CONTEXTS))
    fused = torch.randn(batch, max(queries, keys), (group + 2) * key_heads, size).transpose(
        1, 2
    )  # as a projection has
    q, k, v = fused.split((group * key_heads, key_heads, key_heads), dim=1)
    q, k, v = q[:, :, :queries], k[:, :, :keys], v[:, :, :keys]
    heads = group * key_heads
    bias = torch.empty(batch, heads).uniform_(-10, 2)
    slopes = torch.rand(heads) / 10 if draw(st.booleans()) else None
    lengths = [torch.randint(0, high + 1, (batch,)) if draw(st.booleans()) else None for high in (queries, keys)]
    start = torch.randint(0, 50, (batch,)) if draw(st.booleans()) else None
    rest = (Layout(None, None, *lengths, start), size**-0.5, context)
    inputs = Inputs(q, k, v, bias, slopes, *rest)
    wide = Inputs(*(x if x is None else x.double() for x in inputs[:5]), *rest)
    close(cpu.forward(inputs), reference.forward(wide))
    grad = torch.randn(q.shape)
    ours = cpu.backward(grad, inputs)
    for mine, definition in zip(ours, reference.backward(grad.double(), wide), strict=True):
        torch.testing.assert_close(mine.double(), definition, atol=1e-4, rtol=1e-4)
    again = cpu.backward(grad, inputs)
    assert all(torch.equal(x, y) for x, y in zip(ours, again, strict=True))


def plain(inputs, dtype):
    """Output and gradients by torch's own operators, each rounding to dtype."""
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in inputs[:3])
    position, keys = torch.arange(q.shape[2]), torch.arange(k.shape[2])
    scores = q @ k.repeat_interleave(inputs.group, 1).mT * inputs.scale + inputs.bias[..., None, None].to(dtype)
    if inputs.slopes is not None:
        scores = scores - (inputs.slopes[:, None, None] * (position[:, None] - keys).abs()).to(dtype)
    weights = torch.sigmoid(scores).where(inputs.context.mask(position, keys), 0.0).to(dtype)
    output = weights @ v.repeat_interleave(inputs.group, 1)
    return output, *torch.autograd.grad(output, (q, k, v), torch.ones_like(output))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("group", [1, 3, 6], ids=["MHA", "GQA", "MQA"])
@pytest.mark.parametrize(
    ("queries", "keys", "size"),
    [
        (113, 203, 32),
        (128, 217, 64),
        (113, 211, 96),
        (108, 256, 128),
        (256, 512, 160),
        (512, 256, 256),
        (511, 1024, 64),
    ],
)
def test_half_precision_by_the_papers_rule(queries, keys, size, group, dtype):
    """The error against float32 is at most twice that of a plain computation in half precision."""
    q, k, v = (x.detach().to(dtype) for x in inputs(1, 6, 6 // group, queries, keys, size, torch.float32))
    bias, slopes = torch.empty(1, 6).uniform_(-10, 2), torch.rand(6) / 4 if group == 3 else None
    context = CONTEXTS[(queries + group) % len(CONTEXTS)]
    case = Inputs(q, k, v, bias, slopes, WHOLE, size**-0.5, context)
    ours = [cpu.forward(case), *cpu.backward(torch.ones_like(q), case)[:3]]
    for mine, exact, rough in zip(ours, plain(case, torch.float32), plain(case, dtype), strict=True):
        assert mine.dtype == dtype
        assert (mine.float() - exact).abs().max() <= 2 * (rough.float() - exact).abs().max()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_comes_out_as_in_the_definition(value):
    q, k, v = (x.detach() for x in inputs(queries=60, keys=70, dtype=torch.float32))
    k[0, 0, 3, 2] = value
    ours, definition = sigmoid_attention(q, k, v), sigmoid_attention(q.double(), k.double(), v.double())
    torch.testing.assert_close(ours.double(), definition, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("score", [-1e4, -200.0, 200.0, 1e4])
def test_large_scores_do_not_overflow(score):
    q, k, v = torch.full((1, 1, 1, 16), score), torch.ones(1, 1, 2, 16), torch.ones(1, 1, 2, 16)
    output = sigmoid_attention(q, k, v, bias=0.0)
    torch.testing.assert_close(output, torch.full_like(output, 2.0 if score > 0 else 0.0), atol=1e-6, rtol=0)


def test_nothing_as_large_as_the_matrix_of_weights_is_kept():
    q, k, v = (torch.randn(1, 1, 3000, 16, requires_grad=True) for _ in range(3))
    with torch.profiler.profile(profile_memory=True) as profile:
        sigmoid_attention(q, k, v).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert largest < 3000 * 3000 * 4 / 10


def test_without_a_compiler_the_definition_serves(monkeypatch, tmp_path):
    native.native.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/nowhere/c++")
    q, k, v = (x.detach() for x in inputs(dtype=torch.float32))
    with pytest.warns(
        UserWarning, match=r"sigmoid_attention runs its plain .*: cpu\.cpp cannot be compiled: .*nowhere"
    ):
        slow = sigmoid_attention(q, k, v)
    sigmoid_attention(q, k, v)  # warns no more
    monkeypatch.undo()
    native.native.cache_clear()
    torch.testing.assert_close(slow, sigmoid_attention(q, k, v), atol=1e-5, rtol=1e-5)


def test_what_was_compiled_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "op/cpu.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int answer() { return 42; }')
    assert native.native(source).code.answer() == 42
    (kept,) = (tmp_path / "sigmel").iterdir()
    assert kept.name.startswith("op-")
    native.native.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("it is there"))
    assert native.native(source).code.answer() == 42
    native.native.cache_clear()


# --- What cannot be served


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": (2, 3, 11, 16)}, "v: shape"),
        ({"k": (2, 3, 11, 16), "v": (2, 3, 11, 16)}, "k: 3 heads do not divide the 4 of q"),
        ({"k": (2, 2, 11, 8), "v": (2, 2, 11, 8)}, "k: head size 8, but q has 16"),
        ({"k": (1, 2, 11, 16), "v": (1, 2, 11, 16)}, "k: batch of 1, but q has 2"),
        ({"q": (4, 9, 16)}, "q: 3 dimensions"),
    ],
)
def test_shapes_are_checked(change, message):
    shapes = {"q": (2, 4, 9, 16), "k": (2, 2, 11, 16), "v": (2, 2, 11, 16)} | change
    with pytest.raises(ValueError, match=message):
        sigmoid_attention(*(torch.randn(shape) for shape in shapes.values()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (-2, 1)}, r"window: \(-2, 1\) must be two numbers of keys"),
        ({"window": (2, 1), "causal": True}, "causal, chunk_size and window: give one of them"),
        ({"chunk_size": 0}, "chunk_size: 0 must be at least 1"),
        ({"left_context": -1, "causal": True}, "left_context: -1 must not be negative"),
        ({"key_lengths": torch.tensor([12, 3])}, r"key_lengths: \[12, 3\] must lie between 0 and 11"),
        ({"query_lengths": torch.tensor([1, -3])}, r"query_lengths: \[1, -3\] must lie between 0 and 9"),
        ({"key_lengths": torch.tensor([3])}, r"key_lengths: torch.int64 of shape .* expected integers \(2,\)"),
        ({"bias": torch.zeros(3)}, r"bias: shape \(3,\), expected"),
        ({"alibi_slopes": torch.zeros(2)}, r"alibi_slopes: shape \(2,\), expected \(4,\)"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        sigmoid_attention(*inputs(), **options)


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        ([0, 5], [0, 9], r"cu_queries: \[0, 5\] must rise from 0 to 9"),
        ([0, 9], [3, 9], r"cu_keys: \[3, 9\] must rise from 0 to 9"),
        ([0, 7, 5, 9], [0, 4, 5, 9], r"cu_queries: \[0, 7, 5, 9\] must rise"),
        ([0, 4, 5, 9], [0, 9], "cu_keys: 1 sequences, but cu_queries has 3"),
    ],
)
def test_cumulative_lengths_are_checked(queries, keys, message):
    q = torch.randn(9, 2, 16)
    with pytest.raises(ValueError, match=message):
        sigmoid_attention_varlen(q, q, q, torch.tensor(queries), torch.tensor(keys))


def test_the_source_travels_with_the_package():
    assert cpu.SOURCE.is_file()
    assert Path(native.__file__).parent in cpu.SOURCE.parents
