"""Custom operators of sigmel: one folder an op, the plain definition beside what is registered with torch."""

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
