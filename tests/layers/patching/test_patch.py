"""Patched models: such as people write, and Hugging Face's."""

import copy
import functools
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention as renamed
from torch.utils.checkpoint import checkpoint

import sigmel

close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
CAUSAL = torch.ones(7, 7, dtype=torch.bool).tril()
PREFIX = torch.arange(7) < torch.tensor([[7], [4]])
LEFT = PREFIX.flip(1)


def encoder(**options):
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2)


# --- Modules of others that call F.scaled_dot_product_attention


class CausalSelfAttention(nn.Module):
    """As in nanoGPT."""

    def __init__(self, size=16, heads=4):
        super().__init__()
        self.heads, self.flash = heads, True
        self.c_attn, self.c_proj = nn.Linear(size, 3 * size), nn.Linear(size, size)

    def forward(self, x):
        batch, frames, size = x.shape
        shape = batch, frames, self.heads, size // self.heads
        q, k, v = (y.view(shape).transpose(1, 2) for y in self.c_attn(x).split(size, dim=2))
        if self.flash:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0, is_causal=True)
        else:
            y = (q @ k.mT).softmax(-1) @ v
        return self.c_proj(y.transpose(1, 2).flatten(2))


def helper(x):
    return renamed(x, x, x)


def made(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


class ThroughHelper(nn.Linear):
    @made
    def forward(self, x):
        return helper(super().forward(x))


class ThroughMethods(nn.Linear):
    def forward(self, x):
        return self.attend(super().forward(x))

    def attend(self, x):
        return self.own(x)

    @staticmethod
    def own(x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x)


class ThroughItsOwnFunction(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.call = lambda x: F.scaled_dot_product_attention(x, x, x)

    def forward(self, x):
        return self.call(super().forward(x))


def test_a_causal_language_model(plain):
    model, x = nn.Sequential(nn.Linear(16, 16), CausalSelfAttention()), torch.randn(2, 7, 16)
    assert sigmel.patch_attention(model).replaced == ["1"]
    q, k, v = model[1].c_attn(model[0](x)).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    expected = model[1].c_proj(plain(q, k, v, CAUSAL).transpose(1, 2).flatten(2))
    close(model(x), expected)
    model(x).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("cls", [ThroughHelper, ThroughMethods, ThroughItsOwnFunction])
def test_where_the_function_is_called_from(cls, plain):
    module, x = cls(8, 8), torch.randn(2, 4, 7, 8)
    assert sigmel.patch_attention(module).replaced == [""]
    y = F.linear(x, module.weight, module.bias)
    close(module(x), plain(y, y, y))


def test_the_number_of_keys_may_be_given():
    module, x = CausalSelfAttention(), torch.randn(2, 7, 16)
    sigmel.patch_attention(module, keys=100)
    q, k, v = module.c_attn(x).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    weights = torch.sigmoid(q @ k.mT / 2 - math.log(100)) * CAUSAL
    close(module(x), module.c_proj((weights @ v).transpose(1, 2).flatten(2)))
    with pytest.raises(ValueError, match="keys: 0 must be at least 1"):
        sigmel.patch_attention(module, keys=0)


def test_a_call_that_computes_softmax_after_all_is_an_error():
    module = CausalSelfAttention()
    sigmel.patch_attention(module)
    module.flash = False
    with pytest.raises(RuntimeError, match="SigmoidCausalSelfAttention: this call did not come by"):
        module(torch.randn(2, 7, 16))


def test_softmax_stays_where_nothing_was_patched():
    q, k, v = (torch.randn(2, 4, 7, 8) for _ in range(3))
    patched, other = CausalSelfAttention(), CausalSelfAttention()
    other.load_state_dict(patched.state_dict())
    before, x = F.scaled_dot_product_attention(q, k, v), torch.randn(2, 7, 16)
    softmax = other(x)
    sigmel.patch_attention(patched)
    patched(x)
    close(F.scaled_dot_product_attention(q, k, v), before)
    close(other(x), softmax)


# --- The patched model as a thing


@pytest.mark.parametrize("make", [encoder, CausalSelfAttention])
def test_copies_and_files(make):
    model, x = make(), torch.randn(2, 7, 16)
    softmax = copy.deepcopy(model)
    sigmel.patch_attention(model)
    expected = model(x)
    close(copy.deepcopy(model)(x), expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    close(loaded(x), expected)
    assert type(loaded) is type(model)

    other = make()
    sigmel.patch_attention(other)
    other.load_state_dict(softmax.state_dict())
    close(other(x), expected)
    other = make()
    other.load_state_dict(model.state_dict())
    close(other(x), softmax(x))


def test_it_compiles_without_a_break():
    x = torch.randn(2, 7, 16)
    for model, options in ((encoder(), {"src_key_padding_mask": ~PREFIX}), (CausalSelfAttention(), {})):
        sigmel.patch_attention(model)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        close(compiled(x, **options), model(x, **options))


class HomemadeAttention(nn.Linear):
    def forward(self, x):
        return (x @ x.mT).softmax(-1) @ super().forward(x)


def test_the_report_and_a_second_time():
    model = nn.ModuleDict({"ours": CausalSelfAttention(), "other": nn.Sequential(HomemadeAttention(16, 16))})
    report = sigmel.patch_attention(model)
    assert str(report) == (
        "modules with sigmoid attention now: 1\n"
        "  ours\n"
        "modules left alone: 1\n"
        "  other.0: its forward calls no function that could be replaced"
    )
    x = torch.randn(2, 7, 16)
    expected = model["ours"](x)
    again = sigmel.patch_attention(model)
    assert again.replaced == []
    assert again.left_alone == {"ours": "has sigmoid attention already"} | report.left_alone
    close(model["ours"](x), expected)


def test_a_forward_that_was_set_on_the_module_is_left_alone():
    model = nn.Sequential(CausalSelfAttention(), CausalSelfAttention())
    model[0].forward = model[0].forward
    report = sigmel.patch_attention(model)
    assert report.replaced == ["1"]
    assert "set on the module itself" in report.left_alone["0"]


class CheckpointedAttention(CausalSelfAttention):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=True)


def test_an_attention_that_is_computed_again_in_the_backward_pass_is_left_alone():
    model = nn.Sequential(CausalSelfAttention(), CheckpointedAttention())
    report = sigmel.patch_attention(model)
    assert report.replaced == ["0"]
    assert "its forward calls a checkpoint" in report.left_alone["1"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_around_an_attention_does_no_harm(reentrant):
    model, x = CausalSelfAttention(), torch.randn(2, 7, 16, requires_grad=True)
    sigmel.patch_attention(model)
    (expected,) = torch.autograd.grad(model(x).square().sum(), x)
    checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
    close(x.grad, expected)


def test_a_model_without_attention_is_an_error():
    with pytest.raises(ValueError, match=r"no attention in it .*\n.*\n.*\n  0: its forward calls no function"):
        sigmel.patch_attention(nn.Sequential(HomemadeAttention(4, 4)))


# --- Hugging Face


def hugging_face(name, **options):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
    config = getattr(transformers, f"{name}Config")(vocab_size=20, **sizes | options)
    model = getattr(transformers, f"{name}Model")._from_config(
        config, attn_implementation=options.get("attn_implementation", "sdpa")
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # large enough for attention to matter
    return model.eval()


def test_an_encoder_of_hugging_face():
    model, tokens = hugging_face("Bert"), torch.randint(0, 20, (2, 7))
    softmax = model(tokens).last_hidden_state
    assert sigmel.patch_attention(model).replaced == [f"encoder.layer.{n}.attention.self" for n in range(2)]
    assert (model(tokens).last_hidden_state - softmax).abs().max() > 0.1
    together = model(tokens, PREFIX.long()).last_hidden_state
    for n, length in enumerate(PREFIX.sum(1)):
        close(together[n, :length], model(tokens[n : n + 1, :length]).last_hidden_state[0])
    together.square().mean().backward()
    assert all(x.grad.abs().sum() > 0 for name, x in model.named_parameters() if "pooler" not in name)


def test_a_decoder_of_hugging_face_with_a_cache():
    model, tokens = hugging_face("Llama", num_key_value_heads=2), torch.randint(0, 20, (2, 7))
    sigmel.patch_attention(model, keys=32)
    with torch.no_grad():
        whole = model(tokens).last_hidden_state
        first = model(tokens[:, :5], use_cache=True)
        steps = [first.last_hidden_state]
        for n in (5, 6):
            steps.append(model(tokens[:, n : n + 1], past_key_values=first.past_key_values).last_hidden_state)
        close(torch.cat(steps, 1), whole)
        padded = model(tokens, LEFT.long(), position_ids=(LEFT.cumsum(1) - 1).clamp(min=0)).last_hidden_state
        close(padded[1, 3:], model(tokens[1:, 3:]).last_hidden_state[0])


def test_what_hugging_face_computes_another_way_is_left_alone():
    model = nn.Sequential(hugging_face("Bert", attn_implementation="eager"), CausalSelfAttention())
    report = sigmel.patch_attention(model)
    reason = "its configuration asks for 'eager' attention, not 'sdpa'"
    assert report.left_alone == {f"0.encoder.layer.{n}.attention.self": reason for n in range(2)}
