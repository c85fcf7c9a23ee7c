"""ESPnet's contracts of an encoder and of a front end hold for ours."""

import pytest
import torch
from espnet2.tasks import asr

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.log_mel import LogMel
from sigmel.hosts.espnet import espnet_class

OmniRouter = asr.encoder_choices.get_class("omni_router")
VARIANTS = [
    {"block": block, "subsampling": subsampling, "routing": routing}
    for block in ("conformer", "transformer")
    for subsampling in ("conv", "stack")
    for routing in ("dense", "switch", "omni", "path:2")
] + [{"block_size": 6, "hop_size": 2, "look_ahead": 0}, {"positions": "sinusoidal", "top_k": 2}]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def encoder(request, tiny):
    return OmniRouter(input_size=8, **tiny, **request.param)


def test_padding_changes_nothing(encoder):
    encoder.eval()
    lengths = torch.tensor([30, 29, 7, 1])
    batch = torch.randn(4, 30, 8)
    together, together_lengths, states = encoder(batch, lengths)
    assert states is None
    for n, length in enumerate(lengths):
        alone, alone_length, _ = encoder(batch[n : n + 1, :length], lengths[n : n + 1])
        assert together_lengths[n] == alone_length[0] == alone.shape[1]
        torch.testing.assert_close(together[n : n + 1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-5)


def test_forward_and_backward(encoder):
    hidden, lengths, _ = encoder(torch.randn(2, 25, 8), torch.tensor([23, 12]))
    assert hidden.shape == (2, 6, encoder.output_size())  # ESPnet asserts that no frame is beyond the longest
    assert lengths.tolist() == [6, 3]
    loss = hidden.square().sum() + encoder.output.aux_loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_options_are_checked():
    unknown = r"encoder 'omni_router' \(sigmel [\d.]+\) has no option 'expertz'; did you mean 'experts'"
    with pytest.raises(SigmelError, match=unknown):
        OmniRouter(input_size=8, expertz=3)
    with pytest.raises(SigmelError, match="experts: 1 leaves nothing to route"):
        OmniRouter(input_size=8, experts=1)
    with pytest.raises(SigmelError, match="unknown encoder 'omni'"):
        espnet_class("encoder", "omni")


def test_a_checkpoint_must_fit_even_where_espnet_does_not_mind(tiny):
    small, large = OmniRouter(input_size=8, **tiny), OmniRouter(input_size=8, **tiny | {"num_layers": 3})
    small.load_state_dict(small.state_dict())
    with pytest.raises(SigmelError, match=r"the model has no place for: core\.blocks\.2"):
        small.load_state_dict(large.state_dict(), strict=False)
    with pytest.raises(SigmelError, match=r"it lacks: core\.blocks\.2"):
        large.load_state_dict(small.state_dict(), strict=False)


def test_the_front_end_is_the_registered_one():
    frontend = asr.frontend_choices.get_class("log_mel")(fs="8k", features=40).eval()
    assert frontend.output_size() == 40
    waveforms, lengths = torch.randn(2, 4000), torch.tensor([4000, 2500])
    features, frames = frontend(waveforms, lengths)
    expected, expected_frames = LogMel(sample_rate=8000, features=40).eval()(waveforms, lengths)
    torch.testing.assert_close(features, expected)
    assert frames.tolist() == expected_frames.tolist() == [50, 31]
    assert features.shape[1] == 50
    with pytest.raises(SigmelError, match=r"frontend 'log_mel' .* has no option 'n_mels'"):
        espnet_class("frontend", "log_mel")(n_mels=40)


def test_dmel_is_a_front_end():
    frontend = asr.frontend_choices.get_class("dmel")(fs="16k", hop_ms=25.0).eval()
    waveforms, lengths = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    features, frames = frontend(waveforms, lengths)
    assert frames.tolist() == [41, 23]
    assert features.shape == (2, 41, frontend.output_size())
    ids, _ = DMelTokenizer().encode(waveforms, lengths)
    assert torch.equal(((features[0] + 1) * 7.5).round(), ids[0].float())
