"""Our log-mel spectrogram is NeMo's."""

import pytest
import torch
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

from sigmel.features.log_mel import LogMel


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": None},
        {"sample_rate": 8000, "features": 64, "n_fft": 512},
        {"window": "hamming", "window_size": 0.02},
        {"preemph": 0.0},
    ],
)
def test_features_equal_those_of_nemo(options):
    ours = LogMel(**options).eval()
    # NeMo's own defaults are other ones than its configurations have.
    common = {"window_size": 0.025, "features": 80, "normalize": "per_feature", "dither": 0.0, "pad_to": 0}
    nemo = AudioToMelSpectrogramPreprocessor(**common | options).eval()
    waveforms, lengths = 0.1 * torch.randn(3, 16000), torch.tensor([16000, 9001, 480])
    features, frames = ours(waveforms, lengths)
    expected, expected_frames = nemo(input_signal=waveforms, length=lengths)
    assert frames.tolist() == expected_frames.tolist()
    torch.testing.assert_close(features, expected.transpose(1, 2)[:, : features.shape[1]], atol=1e-5, rtol=1e-5)
