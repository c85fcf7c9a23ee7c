"""The front end gives what tokens keep, and hides bands and spans in training alone."""

import pytest
import torch

from sigmel import SigmelError, registry
from sigmel.features.dmel_frontend import DMelFrontend
from sigmel.features.dmel_tokenizer import DMelTokenizer


@pytest.fixture
def batch():
    return 0.1 * torch.randn(3, 8000), torch.tensor([8000, 4001, 0])


def test_features_are_the_values_of_tokens(batch):
    frontend = registry.build("frontend", "dmel", sample_rate=16000, hop_ms=25.0).eval()
    features, lengths = frontend(*batch)
    assert features.shape == (3, 21, frontend.output_size())
    assert lengths.tolist() == [21, 11, 0]
    assert features.abs().max() <= 1
    ids, _ = DMelTokenizer().encode(*batch)
    for number, count in enumerate(lengths):
        back = ((features[number, :count] + 1) * 7.5).round()
        assert torch.equal(back, ids[number, :count].float())
        assert not features[number, count:].any()


def test_nothing_gives_a_frame_of_padding():
    features, lengths = DMelFrontend()(torch.zeros(1, 0), torch.tensor([0]))
    assert features.shape == (1, 1, 80)
    assert lengths.tolist() == [0]


def test_what_is_hidden_in_training_is_silence(batch):
    frontend = DMelFrontend(freq_masks=1, freq_width=20, time_masks=2, time_width=0.3)
    plain, lengths = frontend.eval()(*batch)
    assert torch.equal(frontend(*batch)[0], plain)
    frontend.train()
    shares = []
    for _ in range(20):
        features, same = frontend(*batch)
        assert torch.equal(same, lengths)
        changed = features != plain
        assert (features[changed] == -1).all()
        hidden = features[0] == -1
        bands, spans = hidden.all(0), hidden.all(1)
        assert bands.sum() <= 20
        assert spans.sum() <= 2 * 0.3 * lengths[0]
        assert (hidden | (features[0] == plain[0])).all()
        shares.append((bands.float().mean() + spans.float().mean()).item())
    assert 0.1 < sum(shares) / 20 < 0.6


@pytest.mark.parametrize("options", [{"freq_masks": -1}, {"freq_width": 81}, {"time_width": 1.5}])
def test_settings_are_checked(options):
    with pytest.raises(SigmelError, match="freq_masks, freq_width, time_masks, time_width"):
        DMelFrontend(**options)
