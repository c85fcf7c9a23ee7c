"""`sigmel upcycle` of the same recogniser in each kind of file, in a Python that has no host."""

import subprocess
import sys

import pytest
import torch

from sigmel.checkpoints import HOSTS, format_of
from sigmel.checkpoints.checkpoint import FRONTEND, CTCModel
from sigmel.models.encoder import OmniRouterEncoder

DENSE = {"d_model": 16, "num_layers": 2, "num_heads": 2, "ff_size": 24, "subsampling": "stack", "routing": "dense"}
OPTIONS = ["--experts", "8", "--routing", "path:2", "--top-k", "2", "--output"]
WITHOUT_HOSTS = f"""
import sys
sys.modules |= dict.fromkeys(("nemo", "espnet", "espnet2", "lightning", "hydra", "omegaconf"))
from sigmel.cli import main
for source in sys.argv[1:]:
    assert main(["upcycle", source, *{OPTIONS}, source.replace("dense", "moe")]) == 0
"""


def tokenizer():
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for piece in ("<unk>", "a", "b"):
        proto.pieces.add(piece=piece, score=0.0, type=proto.SentencePiece.UNKNOWN if piece == "<unk>" else 1)
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A dense encoder, and the folder with files of a recogniser that has it, and upcycled ones."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    encoder = OmniRouterEncoder(input_size=16, **DENSE).eval()
    linear = torch.nn.Linear(16, 4).requires_grad_(False)
    parts = (dict(encoder.state_dict()), linear.weight, linear.bias, ["<unk>", "a", "b"], tokenizer())
    sources = [folder / f"dense/model{kind}" for kind in HOSTS]
    sources[0].parent.mkdir()
    for source in sources:
        model = CTCModel(FRONTEND | {"features": 16}, "omni_router", DENSE, *parts)
        format_of(source).write_ctc(model, source)
    command = [sys.executable, "-c", WITHOUT_HOSTS, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"moe/model.nemo: 8 experts, path:2, from {sources[0]}\n" in done.stdout
    return encoder, folder


@pytest.mark.parametrize("kind", list(HOSTS))
def test_every_kind_of_file(kind, models):
    dense, folder = models
    before, after = (read(folder / part / f"model{kind}") for part in ("dense", "moe"))
    assert (after.frontend, after.pieces, after.tokenizer) == (before.frontend, before.pieces, before.tokenizer)
    assert torch.equal(after.weight, before.weight)
    experts = OmniRouterEncoder(input_size=16, **after.options).eval()
    experts.load_state_dict(after.state)
    assert [(router.num_experts, router.top_k) for router in experts.routers] == [(8, 2)]
    features, lengths = torch.randn(2, 60, 16), torch.tensor([60, 33])
    with torch.no_grad():
        torch.testing.assert_close(
            experts(features, lengths).hidden, dense(features, lengths).hidden, atol=1e-5, rtol=1e-5
        )


def read(path):
    return format_of(path).read_ctc(path)


def test_a_pth_gets_its_configuration_and_nothing_else(models):
    names = {path.name for path in (models[1] / "moe").iterdir()}
    assert names == {"model.nemo", "model.zip", "model.pth", "config.yaml"}
