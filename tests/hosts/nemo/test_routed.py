"""`sigmel routing` for models that only NeMo can run."""

import json
from pathlib import Path

import pytest
import torch
from nemo.collections.asr import models

from sigmel.checkpoints.checkpoint import NeedsHost
from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.files.audio import read_audio
from sigmel.hosts.nemo.recogniser import NeMoRecogniser
from sigmel.routing_study import recogniser
from sigmel.routing_study.robustness import disturbed, permute
from sigmel.routing_study.statistics import RoutingStatistics, watch_routing

pytestmark = pytest.mark.xdist_group("nemo")

CLASSES = {
    "ctc": models.EncDecCTCModel,
    "rnnt_bpe": models.EncDecRNNTBPEModel,
    "hybrid_bpe": models.EncDecHybridRNNTCTCBPEModel,
}


@pytest.fixture(scope="module", params=CLASSES)
def conformer(request, model_config, conformer_config):
    """A model of each kind with NeMo's Conformer and experts in it, untrained, its outputs made large."""
    config = model_config("ctc" if request.param == "ctc" else "hybrid_bpe")
    config.encoder = conformer_config(
        _target_="sigmel.hosts.nemo.OmniRouterConformerEncoder", routing="switch", experts=3
    ).encoder
    if request.param == "rnnt_bpe":
        del config.aux_ctc
    torch.manual_seed(0)
    model = CLASSES[request.param](cfg=config).eval()
    for name, parameter in model.named_parameters():
        if "router" in name or name.endswith(("decoder_layers.0.weight", "joint_net.2.weight")):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def audio(corpus):
    samples = [torch.from_numpy(read_audio(file, 16000)[0]) for file in corpus.files]
    return torch.nn.utils.rnn.pad_sequence(samples, batch_first=True), torch.tensor([len(part) for part in samples])


@torch.no_grad()
def test_its_routers_and_texts_are_the_model_s_own(conformer, corpus, audio):
    ours = NeMoRecogniser(conformer)
    output = ours(*audio)
    seen = []
    conformer.encoder.routing_observer = lambda routing, lengths: seen.append((routing, lengths))
    if isinstance(conformer, models.EncDecHybridRNNTCTCBPEModel):
        conformer.change_decoding_strategy(decoder_type="ctc", verbose=False)
    texts = [hypothesis.text for hypothesis in conformer.transcribe(corpus.files, verbose=False)]
    conformer.encoder.routing_observer = None
    conformer.eval()  # which `transcribe` leaves
    assert ours.texts(output.hidden, output.lengths) == texts
    assert any(texts)
    assert output.routers == (0, 1)
    [(routing, lengths)] = seen
    order = lengths.argsort()  # NeMo sorts a batch
    assert torch.equal(output.lengths, lengths[order])
    for mine, theirs in zip(output.routing, routing, strict=True):
        torch.testing.assert_close(mine.logits[-1], theirs.logits[order][-1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_its_routing_is_watched(conformer, corpus, audio):
    with watch_routing(conformer) as watched:
        output = NeMoRecogniser(conformer)(*audio)
    statistics = RoutingStatistics()
    statistics.update(output.routing, output.lengths)
    assert watched.summary() == statistics.summary()
    assert (watched.seen, len(watched.summary()["layers"])) == (len(corpus.files), 2)
    row = watched.report([{"id": number} for number in range(4)], [0.8 + 0.3 * number for number in range(4)])
    assert (row["utterance"]["id"], row["utterance"]["frame_seconds"]) == (3, pytest.approx(0.04, rel=0.05))


@torch.no_grad()
def test_tokens_of_frames_spell_the_text(conformer, audio):
    ours = NeMoRecogniser(conformer)
    output = ours(*audio)
    if not ours.names:
        assert type(conformer) is models.EncDecRNNTBPEModel
        return
    for heard, length, text in zip(
        ours.tokens(output.hidden), output.lengths, ours.texts(output.hidden, output.lengths), strict=True
    ):
        pieces = [ours.names[token] for token in heard[:length].unique_consecutive() if token != recogniser.BLANK]
        assert "".join(pieces).replace("▁", " ").replace("<unk>", " ⁇ ").strip() == text


@torch.no_grad()
def test_a_permutation_of_experts_undoes_that_of_their_weights(conformer, audio):
    ours = NeMoRecogniser(conformer)
    before = {name: value.clone() for name, value in conformer.state_dict().items()}
    plain = ours(*audio)
    permutations = [torch.tensor([1, 2, 0]), torch.tensor([2, 1, 0])]
    with disturbed(ours.encoder, permute(permutations)):
        assert not torch.allclose(ours(*audio).hidden, plain.hidden)
        for layer, permutation in zip(conformer.encoder.layers, permutations, strict=True):
            for weight in layer.feed_forward2.parameters():
                weight[permutation] = weight.clone()
        after = ours(*audio)
    conformer.load_state_dict(before)
    torch.testing.assert_close(after.hidden, plain.hidden, atol=1e-5, rtol=1e-5)
    assert torch.equal(after.routing[0].experts, permutations[0][plain.routing[0].experts])


def test_a_report(conformer, corpus, tmp_path, capsys):
    conformer.save_to(str(tmp_path / "model.nemo"))
    command = ["routing", str(tmp_path / "model.nemo"), corpus.manifest, "--out", str(tmp_path / "r")]
    assert main([*command, "--shuffles", "1", "--paths", "1", "--noise", "1"]) == 0
    tables = json.loads((tmp_path / "r/routing.json").read_text())["tables"]
    assert ("tokens" in tables) == (type(conformer) is not models.EncDecRNNTBPEModel)
    assert [row["router"] for row in tables["layers"]] == [1, 2]
    assert all(row["moved"] > 0 for row in tables["robustness"][1:])
    assert all(row["wer"] is not None for row in tables["robustness"])


@torch.no_grad()
def test_what_needs_no_host_is_the_same_with_it(trained, audio):
    """CTC over characters does need it, its tokens being NeMo's configuration."""
    if trained.kind == "ctc":
        with pytest.raises(NeedsHost, match="target is 'nemo"):
            recogniser.load_recogniser(Path(trained.path))
        return
    trained.model.eval()  # other tests share it
    plain, ours = recogniser.load_recogniser(Path(trained.path)), NeMoRecogniser(trained.model)
    one, other = plain(*audio), ours(*audio)
    torch.testing.assert_close(one.hidden, other.hidden, atol=1e-4, rtol=1e-4)
    assert torch.equal(plain.tokens(one.hidden), ours.tokens(other.hidden))
    assert plain.texts(one.hidden, one.lengths) == ours.texts(other.hidden, other.lengths)


def test_models_without_routers_are_named(conformer_config, corpus, tmp_path, capsys):
    models.EncDecCTCModel(cfg=conformer_config()).save_to(str(tmp_path / "dense.nemo"))
    assert main(["routing", str(tmp_path / "dense.nemo"), corpus.manifest, "--output", str(tmp_path / "report")]) == 2
    assert "dense.nemo: encoder: ConformerEncoder has no routers" in capsys.readouterr().err


def test_other_kinds_of_models_are_named():
    with pytest.raises(SigmelError, match="Linear is none of NeMo's CTC, transducer and hybrid models"):
        NeMoRecogniser(torch.nn.Linear(1, 1))


@torch.no_grad()
def test_an_encoder_that_drops_frames_on_its_way_is_named(conformer_config, audio):
    config = conformer_config(
        _target_="sigmel.hosts.nemo.OmniRouterConformerEncoder", reduction="striding", reduction_position=0
    )
    config.encoder.reduction_factor = 2
    ours = NeMoRecogniser(models.EncDecCTCModel(cfg=config).eval())
    with pytest.raises(SigmelError, match="drops frames between its layers"):
        ours(*audio)
    with watch_routing(ours.model), pytest.raises(SigmelError, match="drops frames between its layers"):
        ours.encode(*audio)
