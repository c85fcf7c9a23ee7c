"""Compiled and exported graphs give what eager mode gives, at other shapes than they were made with."""

import pytest
import torch

from sigmel.models.encoder import OmniRouterEncoder
from sigmel.models.export import export_onnx, export_program

OPTIONS = [
    {"block": "conformer", "subsampling": "conv", "positions": "rope"},
    {"block": "transformer", "subsampling": "stack", "positions": "sinusoidal", "chunk_size": 1, "left_context": 6},
    {"subsampling": "stack", "positions": "alibi", "attention": "sigmoid", "activation": "swiglu"},
    {"block": "transformer", "subsampling": "stack", "positions": "relative", "attention": "sigmoid"},
]


@pytest.fixture(params=OPTIONS, ids=["conformer", "causal-transformer", "sigmoid-alibi", "sigmoid-relative"])
def case(request):
    torch.manual_seed(0)
    encoder = OmniRouterEncoder(input_size=8, d_model=16, num_layers=2, num_heads=2, **request.param).eval()
    features, lengths = torch.randn(3, 57, 8), torch.tensor([57, 20, 1])
    with torch.no_grad():
        return encoder, features, lengths, encoder(features, lengths).hidden


def test_compile_has_no_graph_break(case):
    encoder, features, lengths, expected = case
    torch._dynamo.reset()
    with torch.no_grad():
        hidden = torch.compile(encoder, fullgraph=True, backend="aot_eager")(features, lengths).hidden
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)


def test_export(case):
    encoder, features, lengths, expected = case
    hidden, frames = export_program(encoder).module()(features, lengths)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=0)
    assert frames.tolist() == [15, 5, 1]


def test_onnx(case, tmp_path):
    import onnxruntime

    encoder, features, lengths, expected = case
    path = tmp_path / "encoder.onnx"
    export_onnx(encoder, path)
    session = onnxruntime.InferenceSession(str(path))
    hidden, frames = session.run(None, {"features": features.numpy(), "lengths": lengths.numpy()})
    torch.testing.assert_close(torch.from_numpy(hidden), expected, atol=1e-5, rtol=0)
    assert frames.tolist() == [15, 5, 1]
