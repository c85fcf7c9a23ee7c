"""Makes what lies here: a tiny model of each host, and the log-probabilities which that host gives for `audio`.

    .venv/bin/python tests/hosts/golden/make.py nemo; .venv-espnet/bin/python tests/hosts/golden/make.py espnet

The hosts live in environments of their own, so each writes what the tests of the other compare with.
"""

import io
import sys
from pathlib import Path

import numpy as np
import sentencepiece
import torch

from sigmel.checkpoints import convert
from sigmel.checkpoints.recogniser import END, FRONTEND, Recogniser

FOLDER = Path(__file__).parent
FRONT_END = FRONTEND | {"window_size": 0.025, "features": 16}
ENCODER = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 24, "subsampling": "stack", "routing": "omni"}


def audio() -> torch.Tensor:
    """(1, 24000) a rising tone that grows louder, in noise."""
    time = np.arange(24000) / 16000
    noise = np.random.default_rng(0).standard_normal(24000)
    samples = 0.3 * time * np.sin(2 * np.pi * (200 + 600 * time) * time) + 0.01 * noise
    return torch.from_numpy(samples.astype(np.float32))[None]


def tokenizer() -> bytes:
    """Four words, without the tables of Unicode normalisation, which would be the largest part of all this."""
    model = io.BytesIO()
    options = {"model_type": "word", "vocab_size": 4, "bos_id": -1, "eos_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["one two three"]),
        model_writer=model,
        normalization_rule_name="identity",
        **options,
    )
    return model.getvalue()


def random_model(pieces: list[str]) -> Recogniser:
    """A recogniser that has learned nothing, the same each time."""
    from sigmel.models.encoder import OmniRouterEncoder

    torch.manual_seed(0)
    encoder = OmniRouterEncoder(input_size=16, **ENCODER)
    linear = torch.nn.Linear(16, 1 + len(pieces)).requires_grad_(False)
    state = dict(encoder.state_dict())
    return Recogniser(FRONT_END, "omni_router", ENCODER, state, linear.weight, linear.bias, pieces, tokenizer())


def nemo_model(path: Path):
    from nemo.collections.asr.models import EncDecCTCModelBPE

    import sigmel.hosts.nemo  # noqa: F401

    return EncDecCTCModelBPE.restore_from(str(path), map_location="cpu").eval()


def nemo_log_probs(path: Path) -> torch.Tensor:
    """(T, V + 1), blank last."""
    model = nemo_model(path)
    with torch.inference_mode():
        return model(input_signal=audio(), input_signal_length=torch.tensor([24000]))[0][0]


def espnet_log_probs(path: Path, folder: Path) -> torch.Tensor:
    """(T, 1 + V), blank first."""
    from sigmel.recipes.espnet.transcribe import load_model

    model = load_model(path, folder, beam_size=1).asr_model
    with torch.inference_mode():
        return model.ctc.log_softmax(model.encode(audio(), torch.tensor([24000]))[0])[0]


if __name__ == "__main__":
    pieces = ["<unk>", "▁one", "▁three", "▁two"]
    if sys.argv[1] == "nemo":
        convert.write_nemo(random_model(pieces), FOLDER / "nemo.nemo")
        nemo_model(FOLDER / "nemo.nemo").save_to(str(FOLDER / "nemo.nemo"))  # as NeMo writes it
        log_probs = nemo_log_probs(FOLDER / "nemo.nemo")
    else:
        convert.write_espnet(random_model([*pieces, END]), FOLDER / "espnet.zip")
        log_probs = espnet_log_probs(FOLDER / "espnet.zip", FOLDER / "unpacked")
    np.save(FOLDER / f"{sys.argv[1]}.npy", log_probs.numpy())
