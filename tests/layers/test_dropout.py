"""Dropout on a CPU against its definition."""

import pytest
import torch

from sigmel.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elements_are_dropped_one_by_one_and_the_rest_make_up_for_them(p, dtype):
    torch.manual_seed(0)
    x = torch.ones(1001, 303, dtype=dtype, requires_grad=True)  # not a multiple of four
    y = Dropout(p)(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / (1 - p)))
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(1 - p - kept.double().mean().item()) < 4 * deviation
    for shift in (1, 2, 3, 4):  # neighbours, which may share a random integer, know nothing of each other
        kept_twice = (kept.flatten()[shift:] & kept.flatten()[:-shift]).double().mean().item()
        assert abs((1 - p) ** 2 - kept_twice) < 8 * deviation
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, y.detach())


def test_each_time_others_and_the_same_after_a_seed():
    layer, x = Dropout(0.3), torch.ones(64, 64)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)


def test_nothing_is_dropped_where_nothing_should_be():
    x = torch.randn(3, 5)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(torch.zeros(0, 5)).shape == (0, 5)


def test_compiled_it_is_that_of_torch():
    x, layer = torch.ones(256, 256), Dropout(0.25)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert 0.7 < (compiled(x) != 0).double().mean() < 0.8
