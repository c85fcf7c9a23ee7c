"""What NeMo saved, ESPnet loads, with the same log-probabilities."""

import torch

from sigmel.cli import main


def test_a_nemo_model_gives_in_espnet_what_it_gave_in_nemo(files, tmp_path):
    assert main(["convert", str(files.FOLDER / "nemo.nemo"), str(tmp_path / "model.zip")]) == 0
    log_probs = files.espnet_log_probs(tmp_path / "model.zip")
    expected = files.expected("nemo.nemo").roll(1, 1)  # ESPnet's blank is the first
    torch.testing.assert_close(log_probs[:, :-1], expected, atol=1e-5, rtol=0)
    assert log_probs[:, -1].max() < -1e3  # the end, which NeMo has not
