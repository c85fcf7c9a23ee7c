"""Files that users have and that need no host: graphs, archives of dMel, and the recognisers in hosts' files."""

import pytest
import torch

from sigmel.routing_study.recogniser import load_recogniser


@pytest.mark.parametrize("name", ["graph.npz", "speech.dmel"])
def test_a_file_gives_what_it_gave(name, files):
    _, outputs = files.FILES["none"][name]
    assert torch.equal(outputs(files.FOLDER / name), files.expected(name))


@pytest.mark.parametrize(("name", "blank"), [("nemo.nemo", -1), ("upcycled.nemo", -1), ("espnet.zip", 0)])
def test_a_host_s_model_gives_here_what_it_gave_there(name, blank, files):
    model = load_recogniser(files.FOLDER / name)
    with torch.inference_mode():
        hidden = model(files.audio().to(model.weight.device), torch.tensor([24000])).hidden[0]
    log_probs = (hidden @ model.weight.T + model.bias).log_softmax(-1)
    torch.testing.assert_close(log_probs.cpu(), files.expected(name).roll(-blank, 1), atol=1e-5, rtol=0)
