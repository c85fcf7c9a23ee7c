"""Export of encoders, as graphs that run without sigmel."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sigmel.files.atomic import atomic_path
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.ops.dispatch import flat
from sigmel.ops.experts.reference import every_expert
from sigmel.ops.sigmoid_attention.reference import dense

# Our ops, and functions that compute them by standard operators.
STANDARD = {
    torch.ops.sigmel.expert_mlp.default: flat(every_expert),
    torch.ops.sigmel.sigmoid_attention.default: flat(dense),
}


class _Inference(nn.Module):
    """An encoder that gives hidden frames and their lengths, and nothing for training."""

    def __init__(self, encoder: OmniRouterEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        out = self.encoder(features, lengths)
        return out.hidden, out.lengths


def export_program(encoder: OmniRouterEncoder) -> torch.export.ExportedProgram:
    """The inference graph of an encoder, for any batch size and number of frames.

    Inputs: features (B, T, F) float32, lengths (B,) int64. Outputs: hidden (B, T', D), lengths (B,). The encoder is
    put into eval mode.
    """
    features = torch.randn(2, 16 * encoder.subsampling_factor + 1, encoder.input_size)
    lengths = torch.tensor([features.shape[1], features.shape[1] // 2])
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"features": {0: dynamic, 1: dynamic}, "lengths": {0: dynamic}}
    with torch.no_grad():
        return torch.export.export(
            _Inference(encoder.eval()),
            (features, lengths),
            dynamic_shapes=shapes,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def export_onnx(encoder: OmniRouterEncoder, path: str | Path) -> None:
    """Write `export_program` as ONNX, with standard operators only; needs `onnx` and `onnxscript`.

    ONNX has no sorted dispatch, so that each expert runs over every frame there, with E / top_k times the work; and no
    fused sigmoid attention, which makes a matrix of weights there.
    """
    program = export_program(encoder).run_decompositions(STANDARD)
    onnx = torch.onnx.export(
        program, input_names=["features", "lengths"], output_names=["hidden", "hidden_lengths"], dynamo=True
    )
    if onnx is None:
        raise RuntimeError("torch.onnx.export returned no program")
    with atomic_path(path) as temporary:
        onnx.save(str(temporary))
