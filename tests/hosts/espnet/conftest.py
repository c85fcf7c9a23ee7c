"""ESPnet with our classes registered, and a corpus small enough to train on in a test."""

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import soundfile

from sigmel.hosts.registration import espnet as espnet_registration

espnet_registration.register()
warnings.filterwarnings("ignore", module="espnet")

# Each generation has one that the other has not.
collect_ignore = [f"test_{package}.py" for package in ("espnet3", "espnetez") if find_spec(package) is None]

WORDS = {"low": 200.0, "mid": 800.0, "high": 2400.0}


@pytest.fixture
def tiny():
    """Options of an encoder that takes no time."""
    return {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 32, "subsampling_channels": 4, "dropout": 0.0}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with wav.scp, text and tokens.txt: words are tones."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    scp, text = [], []
    for n in range(8):
        words = [list(WORDS)[k] for k in rng.integers(3, size=1 + n % 3)]
        tones = [np.sin(2 * np.pi * WORDS[w] * np.arange(4800) / 16000) * np.hanning(4800) for w in words]
        samples = 0.5 * np.concatenate(tones) + 0.01 * rng.standard_normal(4800 * len(words))
        soundfile.write(folder / f"u{n}.wav", samples, 16000, subtype="PCM_16")
        scp.append(f"u{n} {folder}/u{n}.wav\n")
        text.append(f"u{n} {' '.join(words)}\n")
    (folder / "wav.scp").write_text("".join(scp))
    (folder / "text").write_text("".join(text))
    tokens = ["<blank>", "<unk>", *WORDS, "<sos/eos>"]
    (folder / "tokens.txt").write_text("".join(token + "\n" for token in tokens))
    return folder
