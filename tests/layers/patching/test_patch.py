"""Patched models against the formula, written plainly; torch's own and Hugging Face's, and such as people write."""

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
from sigmel.layers.patching import torch_attention
from sigmel.layers.patching.torch_attention import scaled_dot_product_attention

close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
CAUSAL = torch.ones(7, 7, dtype=torch.bool).tril()


def plain(q, k, v, seen=None, added=0.0, scale=None):
    """(B, H, L, D) by the paper; seen (B, H, L, S) bool, whose keys are counted one sequence after the other."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale) + added
    seen = torch.ones_like(scores, dtype=torch.bool) if seen is None else seen.expand(scores.shape)
    outputs = []
    for n in range(len(q)):
        keys = sum(bool(seen[n, :, :, j].any()) for j in range(k.shape[2]))
        outputs.append((torch.sigmoid(scores[n] - math.log(max(keys, 1))) * seen[n]) @ v[n])
    return torch.stack(outputs)


def tensors(batch=2, heads=4, key_heads=4, queries=7, keys=7, size=8):
    shapes = ((heads, queries), (key_heads, keys), (key_heads, keys))
    return [torch.randn(batch, h, t, size, requires_grad=True) for h, t in shapes]


@pytest.fixture
def no_matrix(monkeypatch):
    """Fails a test that does not take the fused op."""
    monkeypatch.setattr(torch_attention, "attention_weights", lambda *_: pytest.fail("a matrix of weights"))


# --- F.scaled_dot_product_attention

PREFIX = torch.arange(7) < torch.tensor([[7], [4]])
LEFT = PREFIX.flip(1)
HOLES = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)


@pytest.mark.usefixtures("no_matrix")
@pytest.mark.parametrize("exist", [PREFIX, LEFT, HOLES])
@pytest.mark.parametrize("hidden", [None, -math.inf, torch.finfo(torch.float32).min, -1e4])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_mask_that_says_which_keys_exist_needs_no_matrix(exist, hidden, rows):
    q, k, v = tensors(key_heads=2)
    mask = exist[:, None, None].repeat(1, 1, rows, 1)
    expected = plain(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), mask)
    if hidden is not None:
        mask = torch.zeros(mask.shape).masked_fill(~mask, hidden)
    close(scaled_dot_product_attention(q, k, v, mask, enable_gqa=True), expected)


@pytest.mark.usefixtures("no_matrix")
def test_no_mask_and_a_causal_one_need_no_matrix():
    q, k, v = tensors(keys=9)
    close(scaled_dot_product_attention(q, k, v, scale=0.7), plain(q, k, v, scale=0.7))
    rows = torch.ones(7, 9, dtype=torch.bool).tril()
    close(scaled_dot_product_attention(q, k, v, is_causal=True), plain(q, k, v, rows))


@pytest.mark.parametrize("mask", [CAUSAL, CAUSAL & LEFT[:, None, None], torch.rand(2, 4, 7, 7) > 0.8])
def test_a_mask_of_queries_and_keys(mask):
    q, k, v = tensors()
    expected = plain(q, k, v, mask)
    close(scaled_dot_product_attention(q, k, v, mask), expected)
    added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    close(scaled_dot_product_attention(q, k, v, added), expected)


@pytest.mark.parametrize("shape", [(7, 7), (4, 7, 7), (2, 4, 1, 7), (2, 1, 1, 7)])
def test_a_float_mask_is_added_to_the_scores(shape):
    q, k, v = tensors()
    mask = torch.randn(shape)
    close(scaled_dot_product_attention(q, k, v, mask), plain(q, k, v, added=mask))


def test_a_learned_mask_gets_its_gradient():
    q, k, v = tensors()
    mask = torch.zeros(2, 1, 1, 7, requires_grad=True)
    scaled_dot_product_attention(q, k, v, mask).sum().backward()
    assert mask.grad.abs().min() > 0


@pytest.mark.parametrize("shape", [(7, 8), (3, 7, 8), (5, 2, 4, 7, 8)])
def test_any_dimensions_before_the_last_two(shape):
    q, k, v = (torch.randn(shape) for _ in range(3))
    mask = CAUSAL & (torch.arange(7) < 5)
    folded = [x.reshape(-1, 1, 7, 8) for x in (q, k, v)]
    close(scaled_dot_product_attention(q, k, v, mask), plain(*folded, mask).view(shape))


def test_values_of_another_size():
    q, k, v = *tensors()[:2], torch.randn(2, 4, 7, 3)
    close(scaled_dot_product_attention(q, k, v, is_causal=True), plain(q, k, v, CAUSAL))


def test_weights_are_dropped():
    q, k, _ = tensors(queries=200, keys=200)
    output = scaled_dot_product_attention(q, k, torch.eye(200).expand(2, 4, 200, 200), dropout_p=0.5)
    expected = 2 * torch.sigmoid(q @ k.mT * 8**-0.5 - math.log(200))
    close(output, torch.where(output == 0, 0, expected))
    assert 0.48 < (output == 0).float().mean() < 0.52


def test_half_precision_and_autocast():
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


# --- nn.MultiheadAttention


def multi_head(module, query, key, value, seen=None, added=0.0):
    """(B, L, E) outputs and (B, H, L, S) weights of batched, batch-first input, from the parameters of a module."""
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
def test_multi_head_attention_is_the_formula(options, masked):
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


def test_float_masks_a_mask_for_each_head_and_the_causal_hint():
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


def test_multi_head_attention_drops_weights_in_training_alone():
    module, x = patched_attention(dropout=0.5), torch.randn(1, 50, 16)
    _, weights = multi_head(module, x, x, x)
    dropped = module(x, x, x, average_attn_weights=False)[1]
    close(dropped, torch.where(dropped == 0, 0, 2 * weights))
    close(module.eval()(x, x, x, average_attn_weights=False)[1], weights)


# --- nn.TransformerEncoder, whose fast paths never call its attention


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


def test_a_causal_language_model():
    model, x = nn.Sequential(nn.Linear(16, 16), CausalSelfAttention()), torch.randn(2, 7, 16)
    assert sigmel.patch_attention(model).replaced == ["1"]
    q, k, v = model[1].c_attn(model[0](x)).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    expected = model[1].c_proj(plain(q, k, v, CAUSAL).transpose(1, 2).flatten(2))
    close(model(x), expected)
    model(x).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("cls", [ThroughHelper, ThroughMethods, ThroughItsOwnFunction])
def test_where_the_function_is_called_from(cls):
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
    q, k, v = tensors()
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


@pytest.mark.parametrize("exist", [PREFIX, LEFT])
@pytest.mark.usefixtures("no_matrix")
def test_a_graph_needs_no_look_at_a_mask_for_keys(exist):
    q, k, v = tensors()
    compiled = torch.compile(scaled_dot_product_attention, backend="aot_eager", fullgraph=True)
    close(compiled(q, k, v, exist[:, None, None]), plain(q, k, v, exist[:, None, None]))


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
