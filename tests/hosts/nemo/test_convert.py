"""What ESPnet saved, NeMo loads, with the same log-probabilities; and what cannot be converted is named."""

import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from sigmel.checkpoints import nemo
from sigmel.checkpoints.checkpoint import END
from sigmel.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


def test_an_espnet_model_gives_in_nemo_what_it_gave_in_espnet(files, tmp_path, capsys):
    assert main(["convert", str(GOLDEN / "espnet.zip"), str(tmp_path / "model.nemo")]) == 0
    assert "model.nemo: omni_router, 5 tokens" in capsys.readouterr().out
    log_probs = files.nemo_log_probs(tmp_path / "model.nemo")
    expected = files.expected("espnet.zip").roll(-1, 1)  # NeMo's blank is the last
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=0)
    assert files.nemo_model(tmp_path / "model.nemo").tokenizer.ids_to_text([1, 3, 4]) == "one two"


def test_there_and_back_is_the_same_model(files, tmp_path):
    """NeMo to a .pth to an archive to NeMo."""
    for source, target in (("../nemo.nemo", "espnet/model.pth"), ("espnet/model.pth", "a.zip"), ("a.zip", "b.nemo")):
        source = GOLDEN / "nemo.nemo" if source.startswith("..") else tmp_path / source
        assert main(["convert", str(source), str(tmp_path / target)]) == 0
    log_probs = files.nemo_log_probs(tmp_path / "b.nemo")
    expected = files.expected("nemo.nemo")
    torch.testing.assert_close(log_probs[:, [0, 1, 2, 3, 5]], expected, atol=1e-5, rtol=0)
    assert log_probs[:, 4].max() < -1e3  # the token that only ESPnet has
    first, last = nemo.read_ctc(GOLDEN / "nemo.nemo"), nemo.read_ctc(tmp_path / "b.nemo")
    assert first.frontend == last.frontend
    assert first.options == last.options
    assert all(torch.equal(first.state[name], last.state[name]) for name in first.state)
    assert [*first.pieces, END] == last.pieces


def edited_nemo(folder, **changes):
    """The golden NeMo file with other values in its configuration, named as section__key."""
    with tarfile.open(GOLDEN / "nemo.nemo") as archive:
        archive.extractall(folder / "parts", filter="data")
    config = yaml.safe_load((folder / "parts/model_config.yaml").read_text())
    for name, value in changes.items():
        *sections, key = name.split("__")
        part = config
        for section in sections:
            part = part[section]
        part[key] = value
    (folder / "parts/model_config.yaml").write_text(yaml.safe_dump(config))
    with tarfile.open(folder / "edited.nemo", "w") as archive:
        archive.add(folder / "parts", arcname=".")
    return folder / "edited.nemo"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target": "nemo.collections.asr.models.EncDecRNNTBPEModel"},
            "target is 'nemo.collections.asr.models.EncDecRNNTBPEModel'; only",
        ),
        (
            {"encoder___target_": "nemo.collections.asr.modules.ConformerEncoder"},
            "encoder._target_ is 'nemo.collections.asr.modules.ConformerEncoder'; only",
        ),
        ({"preprocessor__mag_power": 1.0}, "preprocessor.mag_power is 1.0; only 2.0 can be read without its host"),
    ],
)
def test_models_that_the_other_host_has_not_are_named(tmp_path, capsys, changes, message):
    source = edited_nemo(tmp_path, **changes)
    assert main(["convert", str(source), str(tmp_path / "out.zip")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.zip").exists()


def test_bad_files_are_named(tmp_path, capsys):
    (tmp_path / "bad.zip").write_text("no archive")
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    for source, target, message in (
        ("bad.zip", "out.nemo", "bad.zip: not an archive of an ESPnet model that can be read"),
        ("empty.zip", "out.nemo", "empty.zip: not an archive of an ESPnet model that can be read"),
        ("none.zip", "out.nemo", "none.zip: no such file"),
        ("bad.zip", "out.onnx", "out.onnx: the suffix must be one of .nemo, .zip, .pth"),
    ):
        assert main(["convert", str(tmp_path / source), str(tmp_path / target)]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / target).exists()


def test_an_unknown_option_of_the_front_end_is_named(tmp_path, capsys):
    """A .pth whose config.yaml was edited."""
    assert main(["convert", str(GOLDEN / "espnet.zip"), str(tmp_path / "model.pth")]) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["frontend_conf"]["n_mels"] = 40
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["convert", str(tmp_path / "model.pth"), str(tmp_path / "out.nemo")]) == 2
    assert "a key of frontend_conf is 'n_mels'; only 'fs'" in capsys.readouterr().err
    assert not (tmp_path / "out.nemo").exists()
