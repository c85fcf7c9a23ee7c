"""NeMo's own models around our encoder: train, save, restore, transcribe."""

import json
import subprocess
import sys

import pytest
import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel, EncDecHybridRNNTCTCBPEModel

from sigmel.layers.routing import Routing

pytestmark = pytest.mark.xdist_group("nemo")


def _parameters(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_training_changes_every_part_of_the_encoder(model_config, trainer):
    training = trainer()
    model = EncDecCTCModel(cfg=model_config(), trainer=training)
    before = _parameters(model.encoder)
    training.fit(model)
    unchanged = [name for name, value in _parameters(model.encoder).items() if torch.equal(value, before[name])]
    assert unchanged == []


def test_restored_model_transcribes_the_same(trained, corpus):
    restored = ASRModel.restore_from(trained.path, map_location="cpu")
    assert type(restored) is type(trained.model)
    expected = trained.model.transcribe(corpus.files, batch_size=2, verbose=False)
    assert [h.text for h in restored.transcribe(corpus.files, batch_size=2, verbose=False)] == [
        h.text for h in expected
    ]
    for name, value in restored.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[name]), name


def test_transcribe_with_timestamps(trained, corpus):
    with torch.no_grad():  # a bias that makes the untrained model say something
        if trained.kind != "hybrid_bpe":
            trained.model.decoder.decoder_layers[0].bias[-1] -= 10
    hypotheses = trained.model.transcribe(corpus.files[:2], timestamps=True, verbose=False)
    assert len(hypotheses) == 2
    for hypothesis in hypotheses:
        assert {"word", "segment", "char"} <= set(hypothesis.timestamp)
        if trained.kind != "hybrid_bpe":
            assert hypothesis.timestamp["char"]
            assert all(0 <= span["start"] <= span["end"] <= 1.5 for span in hypothesis.timestamp["word"])


# The pattern of NeMo's own transcription script: it restores before there is any Trainer.
SCRIPT = """
import json
from nemo.collections.asr.models import ASRModel
from nemo.core.config import hydra_runner


@hydra_runner(config_path=".", config_name="config")
def main(cfg):
    model = ASRModel.restore_from(cfg.model, map_location="cpu")
    print("RESULT", json.dumps([h.text for h in model.transcribe(list(cfg.files), verbose=False)]))


main()
"""


@pytest.mark.parametrize("trained", ["hybrid_bpe"], indirect=True)
def test_unmodified_nemo_script_restores_and_transcribes(trained, corpus, tmp_path):
    (tmp_path / "transcribe.py").write_text(SCRIPT)
    (tmp_path / "config.yaml").write_text(f"model: {trained.path}\nfiles: {json.dumps(corpus.files)}\n")
    done = subprocess.run([sys.executable, "transcribe.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert json.loads(line[7:]) == [h.text for h in trained.model.transcribe(corpus.files, verbose=False)]


def _loss_and_router_gradient(model, batch):
    model.zero_grad()
    torch.manual_seed(0)
    loss = model.training_step(batch, 0)["loss"]
    loss.backward()
    return loss.item(), model.encoder.core.routers[0].linear.weight.grad.clone()


@pytest.mark.parametrize(("kind", "share"), [("ctc", 1.0), ("hybrid_bpe", 0.7)])
def test_router_loss_is_in_the_model_loss_once(kind, share, model_config, trainer):
    cls = {"ctc": EncDecCTCModel, "hybrid_bpe": EncDecHybridRNNTCTCBPEModel}[kind]
    training = trainer(steps=1)
    model = cls(cfg=model_config(kind, dropout=0.0, jitter=0.0), trainer=training)
    training.fit(model)  # attaches the trainer and gives every module the model's id
    batch = next(iter(model.train_dataloader()))
    logged = {}
    model.train()
    model.log_dict = lambda values, *args, **kwargs: logged.update(values)

    model.encoder.core.routing = Routing(load_balance_weight=0.0)
    without, no_gradient = _loss_and_router_gradient(model, batch)
    model.encoder.core.routing = Routing(load_balance_weight=0.5)
    first, gradient = _loss_and_router_gradient(model, batch)
    second, _ = _loss_and_router_gradient(model, batch)

    features, lengths = model.preprocessor(input_signal=batch[0], length=batch[1])
    aux_loss = model.encoder.core(features.transpose(1, 2), lengths).aux_loss.item()
    assert aux_loss >= 2 * 0.5 * 0.99  # two layers, each at least 1 when balanced
    assert first - without == pytest.approx(share * aux_loss, rel=1e-3)
    assert second == pytest.approx(first)  # nothing is left over from the step before
    assert not torch.equal(gradient, no_gradient)
    assert logged["adapter_loss/encoder"].item() == pytest.approx(aux_loss, rel=1e-4)


def test_evaluation_registers_no_loss(trained):
    trained.model.eval()
    encoder = trained.model.encoder
    encoder(audio_signal=torch.randn(1, 80, 40), length=torch.tensor([40]))
    assert not getattr(encoder, "_registry", {})
