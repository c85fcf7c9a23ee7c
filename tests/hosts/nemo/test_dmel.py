"""dMel as a preprocessor of a NeMo model: built from YAML, saved and restored, transcribing."""

import pytest
import soundfile
import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel
from omegaconf import OmegaConf

from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.hosts.nemo import DMelPreprocessor


@pytest.fixture(scope="module")
def model():
    vocabulary = ["a", "b"]
    encoder = {"d_model": 16, "num_layers": 1, "num_heads": 2, "ff_size": 16, "feat_in": 80, "subsampling_channels": 4}
    config = {
        "sample_rate": 16000,
        "labels": vocabulary,
        "preprocessor": {"_target_": "sigmel.hosts.nemo.DMelPreprocessor", "sample_rate": 16000, "freq_masks": 1},
        "encoder": {"_target_": "sigmel.hosts.nemo.OmniRouterEncoder", **encoder},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": 16,
            "num_classes": 2,
            "vocabulary": vocabulary,
        },
        "decoding": {"strategy": "greedy"},
    }
    return EncDecCTCModel(OmegaConf.create(config)).eval()


def test_features_are_tokens():
    preprocessor = DMelPreprocessor(window_stride=0.025).eval()
    waveforms, lengths = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    features, frames = preprocessor(input_signal=waveforms, length=lengths)
    ids, expected = DMelTokenizer().encode(waveforms, lengths)
    assert frames.tolist() == expected.tolist()
    assert torch.equal(((features[0].T + 1) * 7.5).round(), ids[0].float())


def test_a_cast_leaves_the_tokens():
    waveforms, lengths = 0.1 * torch.randn(1, 16000), torch.tensor([16000])
    expected, _ = DMelPreprocessor().eval()(input_signal=waveforms, length=lengths)
    cast, _ = DMelPreprocessor().eval().bfloat16()(input_signal=waveforms, length=lengths)
    assert cast.dtype == torch.bfloat16
    torch.testing.assert_close(cast.float(), expected, atol=5e-3, rtol=0)


def test_a_model_transcribes_and_is_restored(model, tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * torch.randn(8000).numpy(), 16000)
    said = model.transcribe([str(tmp_path / "a.wav")], verbose=False)[0].text
    model.save_to(str(tmp_path / "model.nemo"))
    restored = ASRModel.restore_from(str(tmp_path / "model.nemo")).eval()
    assert isinstance(restored.preprocessor, DMelPreprocessor)
    assert restored.preprocessor.featurizer.freq_masks == 1
    assert restored.transcribe([str(tmp_path / "a.wav")], verbose=False)[0].text == said
    signal, length = 0.1 * torch.randn(2, 8000), torch.tensor([8000, 5000])
    first, second = (m.eval()(input_signal=signal, input_signal_length=length)[0] for m in (model, restored))
    torch.testing.assert_close(first, second)
