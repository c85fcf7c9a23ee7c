"""NeMo accepts our classes in programs that do not import sigmel."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from nemo.core.classes import common

from sigmel.hosts.registration import nemo as nemo_registration

pytestmark = pytest.mark.xdist_group("nemo")

# The pattern of NeMo's own training scripts.
SCRIPT = """
import lightning.pytorch as pl
from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.core.config import hydra_runner


@hydra_runner(config_path=".", config_name="none")
def main(cfg):
    trainer = pl.Trainer(**cfg.trainer)
    model = EncDecCTCModelBPE(cfg=cfg.model, trainer=trainer)
    trainer.fit(model)
    model.save_to("trained.nemo")


main()
"""


def test_unmodified_nemo_script_trains_one_of_our_configurations(corpus, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    # A stereo recording at another rate among them.
    rows = Path(corpus.manifest).read_text().splitlines()
    soundfile.write(tmp_path / "stereo.wav", 0.1 * np.random.standard_normal((44100, 2)), 44100)
    rows[0] = json.dumps({"audio_filepath": str(tmp_path / "stereo.wav"), "duration": 1.0, "text": "one two three"})
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n")
    command = [
        sys.executable,
        "train.py",
        "--config-name=omni_router_ctc_tiny_2300k_1300kactive",
        f"model.train_ds.manifest_filepath={tmp_path}/train.jsonl",
        f"model.validation_ds.manifest_filepath={corpus.manifest}",
        f"model.tokenizer.dir={corpus.tokenizer}",
        "model.train_ds.batch_size=2",
        "trainer.max_steps=2",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "trained.nemo").exists()


@pytest.fixture
def prefixes(monkeypatch):
    """NeMo's list as it is in a process that has not met sigmel."""
    before = [prefix for prefix in common.ALLOWED_TARGET_PREFIXES if prefix != nemo_registration.TARGET_PREFIX]
    monkeypatch.setattr(common, "ALLOWED_TARGET_PREFIXES", before)
    return before


def test_a_trainer_registers_our_classes(prefixes, trainer):
    assert not common._is_target_allowed("sigmel.hosts.nemo.OmniRouterEncoder")
    trainer()
    trainer()
    assert prefixes.count(nemo_registration.TARGET_PREFIX) == 1
    assert common._is_target_allowed("sigmel.hosts.nemo.OmniRouterEncoder")


def test_hydra_registers_our_classes_and_finds_our_configurations(prefixes):
    (plugin,) = [p for p in Plugins.instance().discover(SearchPathPlugin) if p.__name__ == "SigmelSearchPath"]
    search_path = ConfigSearchPathImpl()
    plugin().manipulate_search_path(search_path)
    assert [element.path for element in search_path.get_path()] == ["pkg://sigmel.conf.nemo", "pkg://sigmel.conf"]
    assert nemo_registration.TARGET_PREFIX in prefixes


def test_only_our_own_targets_are_allowed():
    nemo_registration.allow_targets()
    assert not common._is_target_allowed("sigmel.files.atomic.atomic_path")
    assert not common._is_target_allowed("sigmel.hosts.nemo.upcycle")  # a function


def test_hook_does_nothing_where_nemo_is_not_imported():
    program = (
        "import sys; from sigmel.hosts.registration.nemo import allow_targets, callbacks_factory\n"
        "assert callbacks_factory() == [] and allow_targets() is False\n"
        "assert not {'nemo', 'torch', 'hydra', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_other_nemo_versions_are_warned_about(monkeypatch):
    import importlib
    import importlib.metadata

    import sigmel.hosts.nemo

    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.1.0")
    with pytest.warns(UserWarning, match=r"nemo_toolkit >=3.0,<4; found 4.1.0"):
        importlib.reload(sigmel.hosts.nemo)
