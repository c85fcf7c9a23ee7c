"""Files that users have: models that earlier versions packed with ESPnet."""

import pytest
import torch


@pytest.mark.parametrize("name", ["espnet.zip", "conformer.zip", "rich_asr.zip", "rich_tts.zip"])
def test_a_packed_model_gives_what_it_gave(name, files):
    _, outputs = files.FILES["espnet"][name]
    torch.testing.assert_close(outputs(files.FOLDER / name), files.expected(name), atol=1e-5, rtol=0)
