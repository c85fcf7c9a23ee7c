"""Sigmoid attention behind the signature of F.scaled_dot_product_attention, against the formula."""

import functools
import math

import pytest
import torch

from sigmel.layers.patching.torch_attention import scaled_dot_product_attention

close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
CAUSAL = torch.ones(7, 7, dtype=torch.bool).tril()
PREFIX = torch.arange(7) < torch.tensor([[7], [4]])
LEFT = PREFIX.flip(1)
HOLES = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)


def tensors(batch=2, heads=4, key_heads=4, queries=7, keys=7, size=8):
    shapes = ((heads, queries), (key_heads, keys), (key_heads, keys))
    return [torch.randn(batch, h, t, size, requires_grad=True) for h, t in shapes]


@pytest.mark.usefixtures("no_matrix")
@pytest.mark.parametrize("exist", [PREFIX, LEFT, HOLES])
@pytest.mark.parametrize("hidden", [None, -math.inf, torch.finfo(torch.float32).min, -1e4])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_mask_that_says_which_keys_exist_needs_no_matrix(exist, hidden, rows, plain):
    q, k, v = tensors(key_heads=2)
    mask = exist[:, None, None].repeat(1, 1, rows, 1)
    expected = plain(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask)
    if hidden is not None:
        mask = torch.zeros(mask.shape).masked_fill(~mask, hidden)
    close(scaled_dot_product_attention(q, k, v, mask, enable_gqa=True), expected)


@pytest.mark.usefixtures("no_matrix")
def test_no_mask_and_a_causal_one_need_no_matrix(plain):
    q, k, v = tensors(keys=9)
    close(scaled_dot_product_attention(q, k, v, scale=0.7), plain(q, k, v, scale=0.7))
    rows = torch.ones(7, 9, dtype=torch.bool).tril()
    close(scaled_dot_product_attention(q, k, v, is_causal=True), plain(q, k, v, rows))


@pytest.mark.parametrize("mask", [CAUSAL, CAUSAL & LEFT[:, None, None], torch.rand(2, 4, 7, 7) > 0.8])
def test_a_mask_of_queries_and_keys(mask, plain):
    q, k, v = tensors()
    expected = plain(q, k, v, mask)
    close(scaled_dot_product_attention(q, k, v, mask), expected)
    added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    close(scaled_dot_product_attention(q, k, v, added), expected)


@pytest.mark.parametrize("shape", [(7, 7), (4, 7, 7), (2, 4, 1, 7), (2, 1, 1, 7)])
def test_a_float_mask_is_added_to_the_scores(shape, plain):
    q, k, v = tensors()
    mask = torch.randn(shape)
    close(scaled_dot_product_attention(q, k, v, mask), plain(q, k, v, added=mask))


def test_a_learned_mask_gets_its_gradient():
    q, k, v = tensors()
    mask = torch.zeros(2, 1, 1, 7, requires_grad=True)
    scaled_dot_product_attention(q, k, v, mask).sum().backward()
    assert mask.grad.abs().min() > 0


@pytest.mark.parametrize("shape", [(7, 8), (3, 7, 8), (5, 2, 4, 7, 8)])
def test_any_dimensions_before_the_last_two(shape, plain):
    q, k, v = (torch.randn(shape) for _ in range(3))
    mask = CAUSAL & (torch.arange(7) < 5)
    folded = [x.reshape(-1, 1, 7, 8) for x in (q, k, v)]
    close(scaled_dot_product_attention(q, k, v, mask), plain(*folded, mask).view(shape))


def test_values_of_another_size(plain):
    q, k, v = *tensors()[:2], torch.randn(2, 4, 7, 3)
    close(scaled_dot_product_attention(q, k, v, is_causal=True), plain(q, k, v, CAUSAL))


def test_weights_are_dropped():
    q, k, _ = tensors(queries=200, keys=200)
    output = scaled_dot_product_attention(q, k, torch.eye(200).expand(2, 4, 200, 200), dropout_p=0.5)
    expected = 2 * torch.sigmoid(q @ k.mT * 8**-0.5 - math.log(200))
    close(output, torch.where(output == 0, 0, expected))
    assert 0.48 < (output == 0).float().mean() < 0.52


def test_half_precision_and_autocast(plain):
    q, k, v = tensors()
    expected = plain(q, k, v, CAUSAL)
    for mask, causal in ((CAUSAL, False), (None, True)):
        half = scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask, is_causal=causal)
        with torch.autocast("cpu", torch.bfloat16):
            cast = scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        for output in (half, cast):
            assert output.dtype == torch.bfloat16
            torch.testing.assert_close(output.float(), expected, atol=0.03, rtol=0.03)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused():
    nested = torch.nested.nested_tensor([torch.randn(4, 3, 8), torch.randn(4, 5, 8)])
    with pytest.raises(ValueError, match="query: sigmoid attention takes padded tensors"):
        scaled_dot_product_attention(nested, nested, nested)


@pytest.mark.parametrize("exist", [PREFIX, LEFT])
@pytest.mark.usefixtures("no_matrix")
def test_a_graph_needs_no_look_at_a_mask_for_keys(exist, plain):
    q, k, v = tensors()
    compiled = torch.compile(scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    close(compiled(q, k, v, exist[:, None, None]), plain(q, k, v, exist[:, None, None]))
