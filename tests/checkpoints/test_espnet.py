"""ESPnet's names for the options of streaming, and ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmel import register, registry
from sigmel.checkpoints.espnet import encoder_from_espnet, encoder_to_espnet, espnet_signature
from sigmel.models.encoder import OmniRouterEncoder


@given(chunk=st.integers(1, 64), left=st.none() | st.integers(0, 500))
def test_ours_to_espnets_and_back(chunk, left):
    ours = {"d_model": 16, "chunk_size": chunk, "left_context": left}
    conf = encoder_to_espnet("omni_router", ours)
    assert conf.keys() == {"d_model", "block_size", "hop_size", "look_ahead"}
    assert encoder_from_espnet("omni_router", conf) == ours


def test_the_full_context_needs_none_of_them():
    assert encoder_to_espnet("omni_router", {"chunk_size": None, "left_context": None, "experts": 2}) == {"experts": 2}
    assert encoder_from_espnet("omni_router", {"experts": 2}) == {"experts": 2}


def test_the_defaults_that_espnet_prints_mean_ours():
    parameters = espnet_signature("omni_router").parameters
    assert not {"chunk_size", "left_context"} & set(parameters)
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    encoder = OmniRouterEncoder(**encoder_from_espnet("omni_router", defaults))
    assert (encoder.chunk_size, encoder.left_context) == (None, None)


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_an_encoder_of_yours_keeps_its_own_names(own_registry):
    @register("encoder", "yours")
    class Yours:
        input_size: int
        subsampling_factor = 1

        def __init__(self, input_size, block_size=8):
            self.input_size = input_size

        def output_size(self):
            return 1

        def forward(self, features, lengths):
            return features, lengths

    assert encoder_from_espnet("yours", {"block_size": 4}) == {"block_size": 4}
    assert encoder_to_espnet("yours", {"block_size": 4}) == {"block_size": 4}
    assert list(espnet_signature("yours").parameters) == ["input_size", "block_size"]
