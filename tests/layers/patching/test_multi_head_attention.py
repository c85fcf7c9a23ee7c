"""Patched `nn.MultiheadAttention`, and torch's Transformer, whose fast paths never call its attention."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sigmel

close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
CAUSAL = torch.ones(7, 7, dtype=torch.bool).tril()
PREFIX = torch.arange(7) < torch.tensor([[7], [4]])
LEFT = PREFIX.flip(1)


@pytest.fixture
def multi_head(plain):
    """Function of a module and its input: outputs and weights by the formula."""

    def multi_head(module, query, key, value, seen=None, added=0.0):
        """(B, L, E) outputs and (B, H, L, S) weights of batched, batch-first input, from a module's parameters."""
        if module.in_proj_weight is None:
            weights = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
        else:
            weights = module.in_proj_weight.chunk(3)
        biases = [0.0] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
        rows = [(module.bias_k, module.bias_v)] if module.bias_k is not None else []
        rows += [(torch.zeros(1, 1, k.shape[2]),) * 2] if module.add_zero_attn else []
        for more_k, more_v in rows:
            k, v = torch.cat([k, more_k.expand(len(k), -1, -1)], 1), torch.cat([v, more_v.expand(len(v), -1, -1)], 1)
        q, k, v = (x.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        if seen is not None:
            seen = F.pad(seen.expand(len(q), 1, q.shape[2], key.shape[1]), (0, len(rows)), value=True)
        everything = torch.eye(k.shape[2]).expand(*k.shape[:2], -1, -1)
        weights = plain(q, k, everything, seen, added)
        output = (weights @ v).transpose(1, 2).flatten(2) @ module.out_proj.weight.T
        return output + (0.0 if module.out_proj.bias is None else module.out_proj.bias), weights

    return multi_head


def patched_attention(**options):
    module = nn.MultiheadAttention(16, 4, batch_first=True, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)  # biases begin at zero
    before = {name: x.clone() for name, x in module.state_dict().items()}
    report = sigmel.patch_attention(module)
    assert report.replaced == [""]
    assert all(torch.equal(x, before.pop(name)) for name, x in module.state_dict().items())
    assert not before
    return module


@pytest.mark.parametrize("masked", [None, "padding", "mask", "both"])
@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"kdim": 6, "vdim": 10}, {"add_bias_kv": True, "add_zero_attn": True}]
)
def test_multi_head_attention_is_the_formula(options, masked, multi_head):
    module = patched_attention(**options)
    query, key, value = torch.randn(2, 5, 16), torch.randn(2, 7, module.kdim), torch.randn(2, 7, module.vdim)
    padding, mask = LEFT[:, None, None], torch.rand(5, 7) > 0.5
    seen = {None: None, "padding": padding, "mask": mask, "both": padding & mask}[masked]
    output, weights = multi_head(module, query, key, value, seen)
    given = {"key_padding_mask": ~LEFT} if masked in ("padding", "both") else {}
    given |= {"attn_mask": ~mask} if masked in ("mask", "both") else {}
    for training in (True, False):
        module.train(training)
        ours, shown = module(query, key, value, average_attn_weights=False, **given)
        close(ours, output)
        close(shown, weights)
        close(module(query, key, value, **given)[1], weights.mean(1))
        ours, shown = module(query, key, value, need_weights=False, **given)
        close(ours, output)
        assert shown is None
    output.sum().backward()
    expected = [x.grad.clone() for x in module.parameters()]
    module.zero_grad()
    ours.sum().backward()
    for x, grad in zip(module.parameters(), expected, strict=True):
        assert grad.abs().sum() > 0
        torch.testing.assert_close(x.grad, grad, atol=1e-4, rtol=1e-4)


def test_float_masks_a_mask_for_each_head_and_the_causal_hint(multi_head):
    module, x = patched_attention(), torch.randn(2, 7, 16)
    added = torch.randn(2, 4, 7, 7)
    close(module(x, x, x, attn_mask=added.flatten(0, 1))[0], multi_head(module, x, x, x, added=added)[0])
    for options in ({}, {"need_weights": False}, {"need_weights": False, "key_padding_mask": ~PREFIX}):
        seen = CAUSAL & PREFIX[:, None, None] if "key_padding_mask" in options else CAUSAL
        expected = multi_head(module, x, x, x, seen)[0]
        close(module(x, x, x, attn_mask=~CAUSAL, is_causal=True, **options)[0], expected)
    with pytest.raises(ValueError, match="is_causal: it is a hint about attn_mask"):
        module(x, x, x, is_causal=True)


def test_without_a_batch_and_with_time_first():
    module, x = patched_attention(), torch.randn(2, 7, 16)
    output, weights = module(x, x, x, key_padding_mask=~PREFIX)
    alone = module(x[1], x[1], x[1], key_padding_mask=~PREFIX[1])
    close(alone[0], output[1])
    close(alone[1], weights[1])
    module.batch_first = False
    time_first = module(*[x.transpose(0, 1)] * 3, key_padding_mask=~PREFIX)
    close(time_first[0].transpose(0, 1), output)
    close(time_first[1], weights)


def test_multi_head_attention_drops_weights_in_training_alone(multi_head):
    module, x = patched_attention(dropout=0.5), torch.randn(1, 50, 16)
    _, weights = multi_head(module, x, x, x)
    dropped = module(x, x, x, average_attn_weights=False)[1]
    close(dropped, torch.where(dropped == 0, 0, 2 * weights))
    close(module.eval()(x, x, x, average_attn_weights=False)[1], weights)


def encoder(**options):
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_gives_in_eval_what_it_gives_in_training(norm_first):
    model = encoder(norm_first=norm_first)
    softmax = model(torch.ones(1, 3, 16))
    report = sigmel.patch_attention(model)
    assert report.replaced == ["layers.0.self_attn", "layers.1.self_attn"]
    x, padding = torch.randn(2, 7, 16), ~PREFIX
    assert (model(torch.ones(1, 3, 16)) - softmax).abs().max() > 1e-3
    for options in ({}, {"src_key_padding_mask": padding}, {"mask": ~CAUSAL, "is_causal": True}):
        trained = model.train()(x, **options)
        model.eval()
        with torch.no_grad():
            close(model(x, **options), trained)
    with torch.no_grad():
        together = model(x, src_key_padding_mask=padding)
        for n, length in enumerate(PREFIX.sum(1)):
            close(together[n, :length], model(x[n : n + 1, :length])[0])


def test_a_layer_does_not_go_past_an_attention_that_was_patched_alone():
    layer = encoder().layers[0]
    x = torch.randn(2, 7, 16)
    sigmel.patch_attention(layer.self_attn)
    trained = layer(x, src_key_padding_mask=~PREFIX)
    with torch.no_grad():
        close(layer.eval()(x, src_key_padding_mask=~PREFIX), trained)


def test_a_transformer_and_its_decoder():
    model = nn.Transformer(16, 4, 1, 1, 32, dropout=0.0, batch_first=True)
    assert len(sigmel.patch_attention(model).replaced) == 3
    source, target = torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    masks = {"src_key_padding_mask": ~PREFIX, "memory_key_padding_mask": ~PREFIX}
    masks["tgt_mask"] = ~CAUSAL[:5, :5]
    trained = model(source, target, **masks)
    with torch.no_grad():
        together = model.eval()(source, target, **masks)
        close(together, trained)
        close(together[1:], model(source[1:, :4], target[1:], tgt_mask=masks["tgt_mask"]))
