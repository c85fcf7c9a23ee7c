"""NeMo's Conformer with routed experts, from scratch and from a dense model."""

import onnxruntime
import pytest
import torch
from hydra.errors import InstantiationException
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
from omegaconf import open_dict

from sigmel.analysis.routing import RoutingStatistics
from sigmel.errors import SigmelError
from sigmel.hosts.nemo import upcycle

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
def test_streaming_with_nemos_code_equals_offline(conformer_config):
    torch.manual_seed(0)
    config = conformer_config(_target_="sigmel.hosts.nemo.OmniRouterConformerEncoder", **STREAMING)
    model = EncDecCTCModel(cfg=config).eval()
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


def test_padding_does_not_change_the_output(conformer_config):
    model = EncDecCTCModel(cfg=conformer_config(_target_="sigmel.hosts.nemo.OmniRouterConformerEncoder")).eval()
    with torch.no_grad():
        together, lengths = model.encoder(audio_signal=FEATURES, length=LENGTHS)
        alone, _ = model.encoder(audio_signal=FEATURES[1:2, :, :61], length=LENGTHS[1:2])
    torch.testing.assert_close(together[1, :, : lengths[1]], alone[0], atol=1e-5, rtol=1e-5)


def test_routing_can_be_observed(conformer_config):
    model = EncDecCTCModel(cfg=conformer_config(_target_="sigmel.hosts.nemo.OmniRouterConformerEncoder")).eval()
    statistics = RoutingStatistics()
    model.encoder.routing_observer = statistics.update
    _encode(model)
    assert len(statistics.summary()["layers"]) == 2


@torch.no_grad()
def test_exported_model_gives_the_same(conformer_config, tmp_path):
    model = EncDecCTCModel(cfg=conformer_config(_target_="sigmel.hosts.nemo.OmniRouterConformerEncoder")).eval()
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


def test_wrong_uses_are_named(model_config, conformer_config):
    with pytest.raises(SigmelError, match="must be a ConformerEncoder, not OmniRouterEncoder"):
        upcycle(EncDecCTCModel(cfg=model_config()))
    model = EncDecCTCModel(cfg=conformer_config())
    with pytest.raises(InstantiationException, match="exprts"):
        upcycle(model, exprts=2)
    with pytest.raises(InstantiationException, match="path:3"):
        upcycle(model, routing="path:3")
    assert model.cfg.encoder._target_.endswith("ConformerEncoder")
