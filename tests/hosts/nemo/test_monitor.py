"""Routing statistics in the training log."""

import pytest
from nemo.collections.asr.models import EncDecCTCModel

from sigmel.errors import SigmelError
from sigmel.hosts.nemo import AttentionNormMonitor, RoutingMonitor

pytestmark = pytest.mark.xdist_group("nemo")


def test_statistics_are_logged(model_config, trainer):
    training = trainer(steps=2, callbacks=[RoutingMonitor()], log_every_n_steps=2)
    model = EncDecCTCModel(cfg=model_config(), trainer=training)
    training.fit(model)
    logged = {name: value.item() for name, value in training.callback_metrics.items() if name.startswith("routing/")}
    for layer in range(2):
        loads = [logged[f"routing/layer_{layer}/load_{expert}"] for expert in range(3)]
        assert sum(loads) == pytest.approx(1)
        assert logged[f"routing/layer_{layer}/dead_experts"] == loads.count(0)
        assert 0 < logged[f"routing/layer_{layer}/entropy"] < 1.1  # ln 3
    assert 0 <= logged["routing/overlap_0_1"] <= 1
    assert model.encoder.routing_observer is None


def test_attention_norms_are_logged(model_config, trainer):
    training = trainer(steps=2, callbacks=[AttentionNormMonitor()], log_every_n_steps=2)
    model = EncDecCTCModel(cfg=model_config(), trainer=training)
    training.fit(model)
    logged = {name: value.item() for name, value in training.callback_metrics.items() if "attention" in name}
    layers = [logged[f"attention_norm/layer_{layer}"] for layer in range(2)]
    assert logged == {
        "attention_norm": pytest.approx(sum(layers) / 2),
        "attention_norm/layer_0": layers[0],
        "attention_norm/layer_1": layers[1],
    }
    assert min(layers) > 0


@pytest.mark.parametrize("monitor", [AttentionNormMonitor, RoutingMonitor])
def test_other_encoders_are_refused(monitor, conformer_config, trainer):
    training = trainer(callbacks=[monitor()])
    model = EncDecCTCModel(cfg=conformer_config(), trainer=training)
    with pytest.raises(SigmelError, match="ConformerEncoder"):
        training.fit(model)
