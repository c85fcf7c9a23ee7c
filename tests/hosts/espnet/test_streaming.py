"""ESPnet's own streaming inference, with our encoders: what it gives equals what it gives offline."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference_streaming import Speech2TextStreaming
from espnet2.tasks import asr
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel import SigmelError

OmniRouter = asr.encoder_choices.get_class("omni_router")
VARIANTS = [
    {"hop_size": 4, "block_size": 12, "look_ahead": 0},
    {"hop_size": 3, "block_size": None, "look_ahead": 0, "positions": "sinusoidal", "routing": "path:2"},
    {"hop_size": 1, "block_size": 6, "look_ahead": 0, "block": "transformer", "subsampling": "stack"},
]
SIGMEL_ESPNET = str(Path(sys.executable).with_name("sigmel-espnet"))


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_features_in_any_pieces_give_the_frames_of_the_whole(variant, data):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32, "subsampling_channels": 4}
    encoder = OmniRouter(input_size=8, **sizes, **variant).eval()
    pieces = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any))
    features = torch.randn(1, sum(pieces), 8)
    whole, _, _ = encoder(features, torch.tensor([sum(pieces)]))
    states, frames = None, []
    for n, piece in enumerate(features.split(pieces, dim=1)):
        final = n == len(pieces) - 1
        ilens = torch.tensor([piece.shape[1]])
        hidden, count, states = encoder(piece, ilens, states, is_final=final, infer_mode=True)
        assert count.tolist() == [hidden.shape[1]]
        frames.append(hidden)
    assert states is None  # nothing is carried into the next utterance
    torch.testing.assert_close(torch.cat(frames, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"chunk_size": 4}, r"chunk_size: in ESPnet, say hop_size"),
        ({"hop_size": 4, "look_ahead": 0}, r"lacks block_size: give all of block_size, hop_size, look_ahead"),
        ({"hop_size": 4, "block_size": 8, "look_ahead": 2}, "look_ahead: 2 must be 0"),
        ({"hop_size": 4, "block_size": 3, "look_ahead": 0}, "block_size: 3 must be at least hop_size: 4"),
    ],
)
def test_options_of_streaming_are_checked(conf, message):
    with pytest.raises(SigmelError, match=message):
        OmniRouter(input_size=8, **conf)


def test_an_encoder_of_the_whole_utterance_does_not_stream(tiny):
    with pytest.raises(SigmelError, match="hop_size: an encoder that sees the whole utterance cannot stream"):
        OmniRouter(input_size=8, **tiny)(torch.randn(1, 9, 8), torch.tensor([9]), None, infer_mode=True)


FRONTEND = {"fs": "16k", "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 16}


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    """The options that name a model trained for streaming, its configuration and its weights."""
    folder = tmp_path_factory.mktemp("streaming")
    config = {
        "frontend": "default",
        "frontend_conf": FRONTEND,
        "normalize": None,
        "encoder": "omni_router",
        "encoder_conf": {"d_model": 32, "num_layers": 1, "num_heads": 2, "ff_size": 32, "subsampling": "stack"}
        | {"block_size": 12, "hop_size": 4, "look_ahead": 0},
        "decoder": None,
        "model": "sigmel_asr",
        "model_conf": {"ctc_weight": 1.0},
        "optim": "adamw",
        "optim_conf": {"lr": 0.005},
        "best_model_criterion": [["valid", "loss", "min"]],
        "max_epoch": 1,
        "num_iters_per_epoch": 150,
        "num_att_plot": 0,
        "batch_type": "unsorted",
        "batch_size": 4,
        "use_tensorboard": False,
        "token_type": "word",
        "token_list": str(corpus / "tokens.txt"),
        "output_dir": str(folder / "exp"),
    }
    for part in ("train", "valid"):
        config[f"{part}_shape_file"] = [str(corpus / "wav.scp")]
        config[f"{part}_data_path_and_name_and_type"] = [
            [str(corpus / "wav.scp"), "speech", "sound"],
            [str(corpus / "text"), "text", "text"],
        ]
    (folder / "train.yaml").write_text(yaml.safe_dump(config))
    asr.ASRTask.main(cmd=["--config", str(folder / "train.yaml")])
    return {
        "asr_train_config": str(folder / "exp/config.yaml"),
        "asr_model_file": str(folder / "exp/valid.loss.best.pth"),
    }


def test_the_frames_that_are_searched_equal_those_offline(corpus, trained):
    recogniser = Speech2TextStreaming(**trained, beam_size=2, ctc_weight=1.0, lm_weight=0.0)
    searched = []
    recogniser.beam_search.register_forward_pre_hook(
        lambda _, args, kwargs: searched.append(kwargs["x"]), with_kwargs=True
    )
    samples = torch.from_numpy(soundfile.read(corpus / "u2.wav", dtype="float32")[0])
    pieces = samples.split(1700)
    for n, piece in enumerate(pieces):
        recogniser(piece, is_final=n == len(pieces) - 1)
    with torch.no_grad():
        offline, _ = recogniser.asr_model.encode(samples[None], torch.tensor([len(samples)]))
    assert len(searched) > 4
    torch.testing.assert_close(torch.cat(searched)[None], offline, atol=1e-5, rtol=1e-5)


def test_the_stock_program_recognises_chunk_by_chunk(corpus, trained, tmp_path):
    options = [part for name, path in trained.items() for part in (f"--{name}", path)]
    options += ["--data_path_and_name_and_type", f"{corpus}/wav.scp,speech,sound", "--ngpu", "0"]
    options += ["--beam_size", "2", "--ctc_weight", "1.0", "--lm_weight", "0.0", "--output_dir", str(tmp_path)]
    command = [SIGMEL_ESPNET, "asr_inference_streaming", *options, "--sim_chunk_length", "1600"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "1best_recog/text").read_text() == (corpus / "text").read_text()


def test_a_front_end_that_espnet_cannot_cut_is_said_when_the_model_is_built(tiny):
    config = asr.ASRTask.get_default_config() | {
        "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
        "frontend": "log_mel",
        "frontend_conf": {},
        "normalize": None,
        "encoder": "omni_router",
        "encoder_conf": {**tiny, "block_size": None, "hop_size": 4, "look_ahead": 0},
        "model": "sigmel_asr",
        "model_conf": {"ctc_weight": 1.0},
    }
    with pytest.warns(UserWarning, match="streaming inference cannot cut frontend: log_mel"):
        asr.ASRTask.build_model(argparse.Namespace(**config))
