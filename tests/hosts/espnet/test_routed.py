"""`sigmel routing` for models that only ESPnet can run."""

import io
import json
import tarfile
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.hosts.espnet import recogniser as hosted
from sigmel.routing_study import recogniser
from sigmel.routing_study.statistics import RoutingStatistics, watch_routing

GOLDEN = Path(__file__).parents[1] / "golden"
OURS = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32, "subsampling": "stack", "experts": 3}
DECODER = {"attention_heads": 2, "linear_units": 16, "num_blocks": 1}


@pytest.fixture
def hybrid(corpus, tmp_path):
    """Function of changes to a configuration: a .pth of words, ESPnet's own front end, CTC and attention."""

    def make(**changes):
        config = {
            "frontend": "default",
            "frontend_conf": {"fs": "16k", "hop_length": 160, "n_mels": 16},
            "normalize": "utterance_mvn",
            "encoder": "omni_router",
            "encoder_conf": OURS,
            "decoder": "transformer",
            "decoder_conf": DECODER,
            "model": "sigmel_asr",
            "model_conf": {"ctc_weight": 0.3},
            "token_type": "word",
            "token_list": (corpus / "tokens.txt").read_text().split(),
        }
        parser = ASRTask.get_parser()
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | changes))
        args = parser.parse_args(["--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "none")])
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(args)))
        torch.manual_seed(0)
        model = ASRTask.build_model(args)
        torch.save(model.state_dict(), tmp_path / "model.pth")
        return tmp_path / "model.pth"

    return make


@torch.no_grad()
def test_what_needs_no_host_is_the_same_with_it():
    plain, ours = (module.load_recogniser(GOLDEN / "espnet.zip") for module in (recogniser, hosted))
    assert ours.names == plain.names
    assert ours.frame_seconds == plain.frame_seconds == 0.04
    waveforms, lengths = torch.randn(2, 16000), torch.tensor([16000, 9000])
    one, other = plain(waveforms, lengths), ours(waveforms, lengths)
    torch.testing.assert_close(one.hidden, other.hidden, atol=1e-5, rtol=1e-5)
    assert one.routers == other.routers == (0, 0)
    assert plain.texts(one.hidden, one.lengths) == ours.texts(other.hidden, other.lengths)


def test_a_hybrid_of_words_is_heard_through_ctc(hybrid, corpus, tmp_path):
    model = hybrid()
    files = sorted(corpus.glob("*.wav"))
    rows = [{"audio_filepath": str(f), "duration": soundfile.info(f).duration, "text": "low high"} for f in files]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["routing", str(model), str(tmp_path / "set.jsonl"), "--output", str(tmp_path / "report")]
    assert main([*command, "--shuffles", "1", "--paths", "--noise"]) == 0
    everything = json.loads((tmp_path / "report/routing.json").read_text())
    tables = everything["tables"]
    frames = [row["frames"] for row in tables["tokens"] if row["layer"] == 1]
    assert sum(frames) == everything["summary"]["frames"] == sum(row["frames"] for row in tables["paths"])
    assert {row["token"] for row in tables["tokens"]} <= {"<blank>", "<unk>", "low", "mid", "high", "<sos/eos>"}
    for row in tables["segments"]:  # a frame is 40 ms
        assert row["mean_seconds"] == pytest.approx(0.04 * row["mean_frames"])
    plain, shuffled = tables["robustness"]
    assert (plain["moved"], plain["change"]) == (0, 0)
    assert shuffled["moved"] > 0
    assert shuffled["change"] > 0


@torch.no_grad()
@pytest.mark.parametrize("interctc", [[], [1]])
def test_the_routing_of_espnets_own_conformer_is_watched(interctc, hybrid):
    conf = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 2, "experts": 3}
    conf |= {"interctc_layer_idx": interctc}
    model = hosted.load_recogniser(hybrid(encoder="omni_router_conformer", encoder_conf=conf))
    with watch_routing(model.asr) as watched:
        output = model(torch.randn(2, 16000), torch.tensor([16000, 9000]))
    statistics = RoutingStatistics()
    statistics.update(output.routing, output.lengths)
    assert watched.summary() == statistics.summary()
    assert (watched.seen, len(watched.summary()["layers"])) == (2, 2)


def test_what_cannot_be_looked_into_is_named(hybrid):
    with pytest.raises(SigmelError, match=r"model.pth: ctc_weight: 0: a model without CTC"):
        hosted.load_recogniser(hybrid(model_conf={"ctc_weight": 0.0}))
    stock = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    with pytest.raises(SigmelError, match=r"model.pth: encoder: ConformerEncoder has no routers"):
        hosted.load_recogniser(hybrid(encoder="conformer", encoder_conf=stock))


def test_a_host_that_is_missing_is_named(tmp_path, capsys):
    """NeMo, in ESPnet's environment."""
    with tarfile.open(tmp_path / "model.nemo", "w") as archive:
        content = b"target: EncDecRNNTModel"
        member = tarfile.TarInfo("model_config.yaml")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    (tmp_path / "set.jsonl").write_text(json.dumps({"audio_filepath": "a.wav", "duration": 1.0}))
    command = ["routing", str(tmp_path / "model.nemo"), str(tmp_path / "set.jsonl"), "--output", str(tmp_path / "out")]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "model.nemo: target is 'EncDecRNNTModel'" in message
    assert "and sigmel.hosts.nemo needs NeMo: pip install" in message
