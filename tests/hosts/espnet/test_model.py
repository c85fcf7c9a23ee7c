"""The recogniser adds the routers' loss, reports what they do, and checks what it loads."""

import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.tasks import asr
from torch import nn

from sigmel import SigmelError, register, registry
from sigmel.hosts.espnet import SigmelASRModel, espnet_class

TOKENS = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]


def build(model_class, tiny, **encoder):
    torch.manual_seed(0)
    frontend = asr.frontend_choices.get_class("log_mel")(features=8, dither=0.0)
    encoder = asr.encoder_choices.get_class("omni_router")(input_size=8, jitter=0.0, **tiny, **encoder)
    parts = dict.fromkeys(("specaug", "normalize", "preencoder", "postencoder", "decoder", "joint_network"))
    ctc = CTC(len(TOKENS), encoder.output_size())
    return model_class(len(TOKENS), TOKENS, frontend=frontend, encoder=encoder, ctc=ctc, ctc_weight=1.0, **parts)


@pytest.fixture
def batch():
    return {
        "speech": 0.1 * torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 12000]),
        "text": torch.tensor([[2, 3, 2], [3, -1, -1]]),
        "text_lengths": torch.tensor([3, 1]),
    }


def test_the_loss_is_the_hosts_and_the_routers(tiny, batch):
    ours = build(SigmelASRModel, tiny, load_balance_weight=0.5)
    loss, stats, weight = ours(**batch)
    host = build(ESPnetASRModel, tiny, load_balance_weight=0.5)
    host_loss, host_stats, host_weight = host(**batch)
    assert stats["aux_loss"] >= 2 * 0.5  # a layer that is balanced has 1
    assert stats["attention_norm"] > 0
    torch.testing.assert_close(loss, host_loss + stats["aux_loss"])
    torch.testing.assert_close(stats["loss"], loss)
    torch.testing.assert_close(stats["loss_ctc"], host_stats["loss_ctc"])
    assert weight == host_weight == 2
    loss.backward()
    assert ours.encoder.core.routers[0].linear.weight.grad.abs().sum() > 0
    assert ours.encoder.output is None  # nothing holds on to the graph


def test_validation_reports_routing_and_leaves_the_loss_alone(tiny, batch):
    ours, host = build(SigmelASRModel, tiny, top_k=1).eval(), build(ESPnetASRModel, tiny, top_k=1).eval()
    with torch.no_grad():
        (loss, stats, _), (host_loss, _, _) = ours(**batch), host(**batch)
    torch.testing.assert_close(loss, host_loss)
    assert 0 < stats["routing_entropy"] <= torch.log(torch.tensor(4.0)) + 1e-6
    assert 0.25 <= stats["routing_load"] <= 1
    assert 0 <= stats["routing_overlap"] <= 1
    assert 0 <= stats["dead_experts"] <= 6
    # DataParallel and DDP gather tensors of one dimension only.
    assert all(value is None or value.dim() == 1 for value in stats.values())


def test_a_dense_encoder_leaves_the_hosts_loss(tiny, batch):
    ours, host = build(SigmelASRModel, tiny, routing="dense"), build(ESPnetASRModel, tiny, routing="dense")
    (loss, stats, _), (host_loss, host_stats, _) = ours(**batch), host(**batch)
    torch.testing.assert_close(loss, host_loss)
    assert stats.keys() == host_stats.keys() | {"attention_norm"}


def test_renamed_parameters_are_refused(tiny):
    model = build(SigmelASRModel, tiny)
    state = model.state_dict()
    state["ctc.renamed"] = state.pop("ctc.ctc_lo.bias")
    with pytest.raises(SigmelError, match=r"it lacks: ctc\.ctc_lo\.bias; .* no place for: ctc\.renamed"):
        model.load_state_dict(state, strict=False)


def test_tokens_are_not_normalised(monkeypatch, tiny):
    monkeypatch.setattr(registry, "_registered", {})

    @register("frontend", "tokens")
    class Tokens(nn.Module):
        discrete = True

        def __init__(self, sample_rate=16000):
            super().__init__()

        def output_size(self):
            return 8

        def forward(self, waveforms, lengths):
            return waveforms, lengths

    encoder = asr.encoder_choices.get_class("omni_router")(input_size=8, **tiny)
    parts = dict.fromkeys(("specaug", "preencoder", "postencoder", "decoder", "joint_network"))
    parts |= {"frontend": espnet_class("frontend", "tokens")(), "encoder": encoder, "ctc": CTC(len(TOKENS), 16)}
    SigmelASRModel(len(TOKENS), TOKENS, normalize=None, ctc_weight=1.0, **parts)
    with pytest.raises(
        SigmelError, match=r"normalize: UtteranceMVN would .* frontend: tokens gives; set normalize: null"
    ):
        SigmelASRModel(len(TOKENS), TOKENS, normalize=UtteranceMVN(), ctc_weight=1.0, **parts)
