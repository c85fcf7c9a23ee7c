"""NeMo's Conformer with routed experts, from scratch and from a dense model."""

import onnxruntime
import pytest
import torch
from hydra.errors import InstantiationException
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
from omegaconf import open_dict

from sigmel.errors import SigmelError
from sigmel.hosts.nemo import AttentionNormMonitor, swap_attention, upcycle
from sigmel.routing_study.statistics import RoutingStatistics

pytestmark = pytest.mark.xdist_group("nemo")

STREAMING = {
    "causal_downsampling": True,
    "att_context_style": "chunked_limited",
    "att_context_size": [8, 3],
    "conv_context_size": "causal",
    "conv_norm_type": "layer_norm",
}
FEATURES, LENGTHS = torch.randn(3, 80, 90), torch.tensor([90, 61, 8])


@pytest.fixture
def dense_model(conformer_config):
    """A stock model with NeMo's own Conformer."""
    torch.manual_seed(0)
    return EncDecCTCModel(cfg=conformer_config()).eval()


@pytest.fixture
def ours(conformer_config):
    """Function of options of our Conformer: a model that has one. What begins small is made large, to be seen."""

    def make(**options):
        torch.manual_seed(0)
        config = conformer_config(_target_="sigmel.hosts.nemo.OmniRouterConformerEncoder", **options)
        return _enlarged(EncDecCTCModel(cfg=config).eval())

    return make


def _enlarged(model):
    for name, parameter in model.named_parameters():
        if name.endswith(("layer_scale", "pos_bias_u", "pos_bias_v")):
            torch.nn.init.normal_(parameter)
    return model


@torch.no_grad()
def _encode(model):
    """The (frames, D) outputs of all utterances, without padding."""
    encoded, lengths = model.encoder(audio_signal=FEATURES, length=LENGTHS)
    return torch.cat([utterance[:, :length].T for utterance, length in zip(encoded, lengths, strict=True)])


@pytest.mark.parametrize(
    ("options", "routers"),
    [
        ({"routing": "omni", "experts": 3}, 1),
        ({"routing": "switch", "experts": 3, "top_k": 2}, 2),
        ({"routing": "path:2", "experts": 2}, 1),
        ({"routing": "switch", "expert_layers": "every:2"}, 1),
        ({"routing": "dense"}, 0),
    ],
)
def test_upcycled_model_starts_out_equal_to_the_dense_one(options, routers, dense_model):
    before = _encode(dense_model)
    model = upcycle(dense_model, **options)
    assert model is dense_model
    torch.testing.assert_close(_encode(model), before, atol=1e-5, rtol=1e-5)
    # A shared router is saved once, and no weight twice.
    state = model.encoder.state_dict()
    assert len([key for key in state if "rout" in key and key.endswith("weight")]) == routers
    assert len({value.data_ptr() for key, value in state.items() if value.numel()}) == len(state)


def test_upcycled_model_without_biases(conformer_config):
    model = EncDecCTCModel(cfg=conformer_config(use_bias=False)).eval()
    before = _encode(model)
    torch.testing.assert_close(_encode(upcycle(model)), before, atol=1e-5, rtol=1e-5)


def test_upcycled_model_trains_is_saved_and_restored(conformer_config, trainer, tmp_path):
    training = trainer(steps=3)
    model = upcycle(EncDecCTCModel(cfg=conformer_config(), trainer=training), experts=3, load_balance_weight=0.1)
    experts, router = model.encoder.layers[0].feed_forward2.experts, model.encoder.routers[0].linear.weight.clone()
    assert torch.equal(experts.w1[0], experts.w1[2])
    logged = {}
    model.log_dict = lambda values, *args, **kwargs: logged.update(values)
    training.fit(model)
    assert logged["adapter_loss/encoder"] >= 2 * 0.1 * 0.99
    assert not torch.equal(experts.w1[0], experts.w1[2])
    assert not torch.equal(model.encoder.routers[0].linear.weight, router)

    path = str(tmp_path / "model.nemo")
    model.save_to(path)
    restored = ASRModel.restore_from(path, map_location="cpu").eval()
    assert restored.cfg.encoder._target_ == "sigmel.hosts.nemo.OmniRouterConformerEncoder"
    assert torch.equal(_encode(restored), _encode(model.eval()))


def test_yaml_alone_starts_from_a_dense_checkpoint(dense_model, conformer_config, tmp_path):
    path = str(tmp_path / "dense.nemo")
    dense_model.save_to(path)
    config = conformer_config(_target_="sigmel.hosts.nemo.OmniRouterConformerEncoder", normalize_gates=True)
    model = EncDecCTCModel(cfg=config).eval()
    with open_dict(config):
        config.init_from_nemo_model = path
    model.maybe_init_from_pretrained_checkpoint(config)
    torch.testing.assert_close(_encode(model), _encode(dense_model), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["softmax", "sigmoid"])
def test_streaming_with_nemos_code_equals_offline(attention, ours):
    model = ours(attention=attention, **STREAMING)
    buffer = CacheAwareStreamingAudioBuffer(model)
    features, _, _ = buffer.append_audio(0.1 * torch.randn(16000).numpy())
    caches, history, outputs = model.encoder.get_initial_cache_state(batch_size=1), None, []
    for step, (chunk, lengths) in enumerate(buffer):
        history, _, *caches, _, log_probs, _ = model.conformer_stream_step(
            processed_signal=chunk,
            processed_signal_length=lengths,
            cache_last_channel=caches[0],
            cache_last_time=caches[1],
            cache_last_channel_len=caches[2],
            keep_all_outputs=buffer.is_buffer_empty(),
            previous_pred_out=history,
            drop_extra_pre_encoded=model.encoder.streaming_cfg.drop_extra_pre_encoded if step else 0,
            return_log_probs=True,
        )
        outputs.append(log_probs)
    encoded, _ = model.encoder(audio_signal=features, length=torch.tensor([features.shape[-1]]))
    offline = model.decoder(encoder_output=encoded)
    assert len(outputs) > 3
    torch.testing.assert_close(torch.cat(outputs, dim=1), offline, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["rel_pos", "abs_pos"])
@pytest.mark.parametrize("attention", ["softmax", "sigmoid"])
def test_padding_does_not_change_the_output(attention, positions, ours):
    model = ours(attention=attention, self_attention_model=positions)
    with torch.no_grad():
        together, lengths = model.encoder(audio_signal=FEATURES, length=LENGTHS)
        alone, _ = model.encoder(audio_signal=FEATURES[1:2, :, :61], length=LENGTHS[1:2])
    torch.testing.assert_close(together[1, :, : lengths[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_routing_can_be_observed(ours):
    model = ours()
    statistics = RoutingStatistics()
    model.encoder.routing_observer = statistics.update
    _encode(model)
    assert len(statistics.summary()["layers"]) == 2


@torch.no_grad()
@pytest.mark.parametrize("attention", ["softmax", "sigmoid"])
def test_exported_model_gives_the_same(attention, ours, tmp_path):
    model = ours(attention=attention)
    path = str(tmp_path / "model.onnx")
    model.export(path)
    (log_probs,) = onnxruntime.InferenceSession(path).run(
        None, {"audio_signal": FEATURES.numpy(), "length": LENGTHS.numpy()}
    )
    encoded, lengths = model.encoder(audio_signal=FEATURES, length=LENGTHS)
    expected = model.decoder(encoder_output=encoded)
    for utterance, length in enumerate(lengths):
        torch.testing.assert_close(
            torch.from_numpy(log_probs)[utterance, :length], expected[utterance, :length], atol=1e-4, rtol=1e-4
        )


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rel_pos", "abs_pos"])
def test_swapped_attention_is_the_formula(positions, conformer_config):
    """The scores are NeMo's, of normalised queries and keys; the weights are sigmoids with -ln n."""
    model = EncDecCTCModel(cfg=conformer_config(self_attention_model=positions)).eval()
    before = model.encoder.state_dict()
    model = _enlarged(swap_attention(model))
    assert all(
        torch.equal(model.encoder.state_dict()[name], value) for name, value in before.items() if "bias_" not in name
    )
    attention, x = model.encoder.layers[0].self_attn, torch.randn(2, 7, model.cfg.encoder.d_model)
    lengths = torch.tensor([7, 4])
    exists = torch.arange(7) < lengths[:, None]
    mask = ~(exists[:, :, None] & exists[:, None])
    _, table = model.encoder.pos_enc(x=x) if positions == "rel_pos" else (x, None)
    found = attention(x, x, x, mask=mask, pos_emb=table)
    q, k, v = (
        f(x).unflatten(-1, (attention.h, -1)).transpose(1, 2)
        for f in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    q, k = attention.q_norm(q), attention.k_norm(k)
    scores = q @ k.mT
    if positions == "rel_pos":
        p = attention.linear_pos(table)[0].unflatten(-1, (attention.h, -1))  # (2 T - 1, H, d), from T - 1 down
        distance = 6 - torch.arange(7)[:, None] + torch.arange(7)
        scores = (q + attention.pos_bias_u[:, None]) @ k.mT
        scores = scores + torch.einsum("bhid,ijhd->bhij", q + attention.pos_bias_v[:, None], p[distance])
    scores = scores / attention.d_k**0.5 - lengths.log()[:, None, None, None]
    y = (torch.sigmoid(scores) * ~mask[:, None]) @ v
    expected = attention.layer_scale * attention.output_norm(attention.linear_out(y.transpose(1, 2).flatten(2)))
    torch.testing.assert_close(found[exists], expected[exists], atol=1e-5, rtol=1e-5)


def test_a_swapped_model_trains_and_is_restored(conformer_config, trainer, tmp_path):
    training = trainer(steps=2, callbacks=[AttentionNormMonitor()], log_every_n_steps=1)
    model = swap_attention(EncDecCTCModel(cfg=conformer_config(), trainer=training))
    scale = model.encoder.layers[1].self_attn.layer_scale.clone()
    training.fit(model)
    assert not torch.equal(model.encoder.layers[1].self_attn.layer_scale, scale)
    logged = training.callback_metrics
    assert logged["attention_norm"] == pytest.approx(
        (logged["attention_norm/layer_0"] + logged["attention_norm/layer_1"]) / 2
    )
    assert 0 < logged["attention_norm"] < 0.1  # LayerScale
    model.save_to(str(tmp_path / "model.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "model.nemo"), map_location="cpu").eval()
    assert torch.equal(_encode(restored), _encode(model.eval()))


def test_experts_and_sigmoid_attention_go_together(conformer_config):
    model = swap_attention(upcycle(EncDecCTCModel(cfg=conformer_config()), experts=2))
    assert model.encoder.routers
    assert model.encoder.layers[0].self_attn.layer_scale.requires_grad


def test_attention_norms_want_all_layers_in_training(ours):
    encoder = ours().encoder.train()
    encoder(audio_signal=FEATURES, length=LENGTHS)
    assert encoder.attention_norms.shape == (2,)
    encoder.layers[0].eval()
    encoder(audio_signal=FEATURES, length=LENGTHS)
    assert encoder.attention_norms is None


def test_a_shared_bias_stays_shared(conformer_config):
    model = swap_attention(EncDecCTCModel(cfg=conformer_config(untie_biases=False)))
    first, second = (layer.self_attn.pos_bias_u for layer in model.encoder.layers)
    assert first is second


def test_wrong_uses_are_named(model_config, conformer_config):
    with pytest.raises(SigmelError, match="must be a ConformerEncoder, not OmniRouterEncoder"):
        upcycle(EncDecCTCModel(cfg=model_config()))
    model = EncDecCTCModel(cfg=conformer_config())
    with pytest.raises(InstantiationException, match="exprts"):
        upcycle(model, exprts=2)
    with pytest.raises(InstantiationException, match="path:3"):
        upcycle(model, routing="path:3")
    with pytest.raises(InstantiationException, match="attention: 'linear' is none of softmax, sigmoid"):
        upcycle(model, attention="linear")
    with pytest.raises(SigmelError, match="must be a ConformerEncoder, not OmniRouterEncoder"):
        swap_attention(EncDecCTCModel(cfg=model_config()))
    with pytest.raises(InstantiationException, match="cannot stand in for RelPositionMultiHeadAttentionLongformer"):
        upcycle(model, attention="sigmoid", self_attention_model="rel_pos_local_attn", att_context_size=[4, 4])
    assert model.cfg.encoder._target_.endswith("modules.ConformerEncoder")
    with pytest.raises(SigmelError, match="NeMo would replace attention: sigmoid"):
        swap_attention(model).encoder.change_attention_model("rel_pos_local_attn", [4, 4])
