"""Our encoder behind NeMo's encoder interface."""

import inspect

import onnxruntime
import pytest
import torch
from hydra.errors import InstantiationException
from nemo.collections.asr.models import EncDecCTCModel
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
from nemo.core.classes.common import Serialization
from omegaconf import OmegaConf

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.hosts.nemo import OmniRouterEncoder, RegisteredEncoder
from sigmel.models import encoder as core
from sigmel.routing_study.statistics import RoutingStatistics

pytestmark = pytest.mark.xdist_group("nemo")

SMALL = {"d_model": 32, "num_layers": 2, "num_heads": 2, "conv_kernel": 5, "subsampling_channels": 4, "experts": 3}


def test_same_output_as_the_model_it_wraps():
    encoder = OmniRouterEncoder(feat_in=20, **SMALL).eval()
    features, lengths = torch.randn(2, 20, 41), torch.tensor([41, 18])
    encoded, encoded_lengths = encoder(audio_signal=features, length=lengths)
    expected = encoder.core(features.transpose(1, 2), lengths)
    assert torch.equal(encoded, expected.hidden.transpose(1, 2))
    assert encoded_lengths.tolist() == [11, 5]
    assert encoded.shape == (2, encoder._feat_out, 11)
    whole, _ = encoder(audio_signal=features[:1])
    torch.testing.assert_close(whole, encoded[:1])


def test_arguments_are_those_of_the_model():
    ours, theirs = (inspect.signature(cls).parameters for cls in (OmniRouterEncoder, core.OmniRouterEncoder))
    expected = ["feat_in" if name == "input_size" else name for name in theirs]
    assert list(ours) == expected
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exprts": 4}, "exprts"),
        ({"routing": "path:3"}, "path:3"),
        ({"experts": 1}, "experts"),
        ({"top_k": 9}, "top_k"),
    ],
)
def test_wrong_options_are_named(options, message, model_config):
    with pytest.raises(InstantiationException, match=message):
        EncDecCTCModel(cfg=model_config(**options))


def test_features_of_another_size_are_an_error():
    encoder = OmniRouterEncoder(feat_in=20, **SMALL)
    with pytest.raises(SigmelError, match="feat_in: 20"):
        encoder(audio_signal=torch.randn(1, 80, 40), length=torch.tensor([40]))


class Halver(torch.nn.Module):
    """Somebody else's encoder, with no experts and no streaming."""

    subsampling_factor = 2
    input_size: int

    def __init__(self, input_size: int, size: int):
        super().__init__()
        self.input_size = input_size
        self.linear = torch.nn.Linear(2 * input_size, size)

    def output_size(self) -> int:
        return self.linear.out_features

    def forward(self, features, lengths):
        return self.linear(features[:, : features.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2)), lengths // 2


def test_any_registered_encoder_can_be_used(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    registry.register("encoder", "halver")(Halver)
    config = {"_target_": "sigmel.hosts.nemo.RegisteredEncoder", "encoder": "halver", "feat_in": 8}
    encoder = Serialization.from_config_dict(OmegaConf.create(config | {"conf": {"size": 6}}))
    assert isinstance(encoder, RegisteredEncoder)
    encoded, lengths = encoder(audio_signal=torch.randn(2, 8, 10), length=torch.tensor([10, 7]))
    assert encoded.shape == (2, 6, 5)
    assert lengths.tolist() == [5, 3]
    with pytest.raises(SigmelError, match="cannot stream"):
        encoder.setup_streaming_params()
    with pytest.raises(SigmelError, match="halver"):
        RegisteredEncoder(encoder="halvr", feat_in=8)


def test_routing_can_be_observed(trained, corpus):
    statistics = RoutingStatistics()
    trained.model.encoder.routing_observer = statistics.update
    try:
        trained.model.transcribe(corpus.files, verbose=False)
    finally:
        trained.model.encoder.routing_observer = None
    layers = statistics.summary()["layers"]
    assert len(layers) == 2
    assert all(sum(layer["load"]) == pytest.approx(1) for layer in layers)


def _offline(model, signals):
    lengths = torch.tensor([signal.shape[-1] for signal in signals])
    padded = torch.nn.utils.rnn.pad_sequence([signal[0].T for signal in signals], batch_first=True).transpose(1, 2)
    encoded, encoded_lengths = model.encoder(audio_signal=padded, length=lengths)
    return model.decoder(encoder_output=encoded), encoded_lengths


@pytest.mark.parametrize(
    ("options", "chunk_size"),
    [
        ({"chunk_size": 4, "left_context": 8}, None),
        ({"chunk_size": 4, "left_context": 8}, 8),
        ({"chunk_size": 2}, None),
        ({"chunk_size": 1, "left_context": 3, "block": "transformer", "subsampling": "stack"}, None),
        ({"chunk_size": 3, "positions": "sinusoidal", "block": "transformer"}, None),
    ],
)
@torch.no_grad()
def test_streaming_with_nemos_code_equals_offline(options, chunk_size, model_config):
    torch.manual_seed(0)
    model = EncDecCTCModel(cfg=model_config(**options)).eval()
    if chunk_size is not None:
        model.encoder.setup_streaming_params(chunk_size=chunk_size, shift_size=chunk_size)
    buffer = CacheAwareStreamingAudioBuffer(model)
    signals = []
    for seconds, stream in ((0.6, -1), (0.9, -1)):  # two streams that end at different times
        audio = 0.1 * torch.randn(int(16000 * seconds)).numpy()
        signals.append(buffer.append_audio(audio, stream_id=stream)[0])

    caches = model.encoder.get_initial_cache_state(batch_size=2)
    history, outputs = None, []
    for features, lengths in buffer:
        history, _, *caches, _, log_probs, _ = model.conformer_stream_step(
            processed_signal=features,
            processed_signal_length=lengths,
            cache_last_channel=caches[0],
            cache_last_time=caches[1],
            cache_last_channel_len=caches[2],
            previous_pred_out=history,
            return_log_probs=True,
        )
        outputs.append(log_probs)
    streamed = torch.cat(outputs, dim=1)

    offline, lengths = _offline(model, signals)
    for stream, length in enumerate(lengths):
        torch.testing.assert_close(streamed[stream, :length], offline[stream, :length], atol=1e-5, rtol=1e-5)
        assert torch.equal(history[stream], offline[stream, :length].argmax(-1))


def test_full_context_cannot_stream(model_config):
    model = EncDecCTCModel(cfg=model_config())
    with pytest.raises(SigmelError, match="chunk_size"):
        CacheAwareStreamingAudioBuffer(model)


def test_chunks_that_do_not_fit_are_errors():
    encoder = OmniRouterEncoder(feat_in=20, chunk_size=4, **SMALL)
    with pytest.raises(SigmelError, match="chunk_size: 6"):
        encoder.setup_streaming_params(chunk_size=6)
    with pytest.raises(SigmelError, match="shift_size: 4"):
        encoder.setup_streaming_params(chunk_size=8, shift_size=4)


def _run(path, *inputs):
    session = onnxruntime.InferenceSession(path)
    feed = {i.name: value.numpy() for i, value in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feed)]


@torch.no_grad()
def test_exported_model_gives_the_same_for_other_lengths(model_config, tmp_path):
    model = EncDecCTCModel(cfg=model_config(jitter=0.0)).eval()
    path = str(tmp_path / "model.onnx")
    model.export(path)
    features, lengths = torch.randn(3, 80, 90), torch.tensor([90, 31, 4])
    (log_probs,) = _run(path, features, lengths)
    encoded, _ = model.encoder(audio_signal=features, length=lengths)
    torch.testing.assert_close(log_probs, model.decoder(encoder_output=encoded), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_exported_streaming_model_gives_the_same(model_config, tmp_path):
    model = EncDecCTCModel(cfg=model_config(chunk_size=4, left_context=8)).eval()
    model.set_export_config({"cache_support": True})
    path = str(tmp_path / "model.onnx")
    model.export(path)
    features = torch.randn(2, 80, 48)
    ours = theirs = model.encoder.get_initial_cache_state(2)
    for chunk in features.split(16, dim=2):
        length = torch.full((2,), 16)
        expected, _, *ours = model.encoder(
            audio_signal=chunk,
            length=length,
            cache_last_channel=ours[0],
            cache_last_time=ours[1],
            cache_last_channel_len=ours[2],
        )
        log_probs, _, *theirs = _run(path, chunk, length, *theirs)
        torch.testing.assert_close(log_probs, model.decoder(encoder_output=expected), atol=1e-4, rtol=1e-4)
