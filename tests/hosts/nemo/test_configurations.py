"""The configurations of conf/nemo: their names tell their parameters, and each composes and builds."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from nemo.core.classes.common import Serialization
from omegaconf import OmegaConf

import sigmel
from sigmel.models.stack import parameter_counts

pytestmark = pytest.mark.xdist_group("nemo")

NAMES = sorted(path.stem for path in (Path(sigmel.__file__).parent / "conf" / "nemo").glob("*active.yaml"))
UNITS = {"k": 1e3, "m": 1e6}


def _compose(name: str, *overrides: str):
    with initialize_config_module("sigmel.conf.nemo", version_base=None):
        return compose(name, overrides=list(overrides))


def _encoder(config):
    with torch.device("meta"):
        return Serialization.from_config_dict(config.model.encoder)


def test_there_are_three_sizes():
    assert len(NAMES) == 3


@pytest.mark.parametrize("name", NAMES)
def test_name_and_text_tell_the_parameters(name):
    config = _compose(name)
    assert config.name == name
    config.model.encoder.feat_in = config.model.preprocessor.features
    counts = parameter_counts(_encoder(config))
    named = [float(number) * UNITS[unit] for number, unit in re.findall(r"_(\d+)([km])", name)[-2:]]
    assert named == pytest.approx([counts.total, counts.active], rel=0.03)
    text = (Path(sigmel.__file__).parent / "conf" / "nemo" / f"{name}.yaml").read_text()
    assert f"has {counts.total / 1e6:.3g}M parameters, of which a frame uses {counts.active / 1e6:.3g}M." in text


@pytest.mark.parametrize("routing", ["dense", "switch", "omni", "path:2"])
def test_routing_is_one_word(routing):
    encoder = _encoder(_compose("omni_router_ctc_tiny_2300k_1300kactive", f"model.encoder.routing={routing}"))
    assert len(encoder.core.routers) == {"dense": 0, "switch": 4, "omni": 1, "path:2": 2}[routing]


def test_streaming_size_can_stream():
    encoder = _encoder(_compose("omni_router_ctc_600m_605m_202mactive"))
    assert encoder.streaming_cfg.chunk_size == 4


@pytest.mark.parametrize("name", NAMES)
def test_everything_but_the_data_is_given(name):
    missing = OmegaConf.missing_keys(_compose(name))
    assert missing == {"model.train_ds.manifest_filepath", "model.tokenizer.dir"}
