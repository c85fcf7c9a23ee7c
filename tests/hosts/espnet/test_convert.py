"""What NeMo saved, ESPnet loads, with the same log-probabilities."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from sigmel.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_nemo_model_gives_in_espnet_what_it_gave_in_nemo(tmp_path):
    spec = importlib.util.spec_from_file_location("golden", GOLDEN / "make.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    assert main(["convert", str(GOLDEN / "nemo.nemo"), str(tmp_path / "model.zip")]) == 0
    log_probs = golden.espnet_log_probs(tmp_path / "model.zip", tmp_path / "unpacked")
    expected = torch.from_numpy(np.load(GOLDEN / "nemo.npy")).roll(1, 1)  # ESPnet's blank is the first
    torch.testing.assert_close(log_probs[:, :-1], expected, atol=1e-5, rtol=0)
    assert log_probs[:, -1].max() < -1e3  # the end, which NeMo has not
