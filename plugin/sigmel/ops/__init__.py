"""Custom operators of sigmel: a folder for each op, with its plain definition, the operator of torch, and kernels."""

from sigmel.ops.dmel.op import dmel_embed, dmel_encode, dmel_encode_spectrum
from sigmel.ops.experts.op import expert_mlp
from sigmel.ops.sigmoid_attention.op import sigmoid_attention, sigmoid_attention_decode, sigmoid_attention_varlen

__all__ = [
    "dmel_embed",
    "dmel_encode",
    "dmel_encode_spectrum",
    "expert_mlp",
    "sigmoid_attention",
    "sigmoid_attention_decode",
    "sigmoid_attention_varlen",
]
