"""Custom operators of sigmel: one folder an op, the plain definition beside what is registered with torch."""

from sigmel.ops.experts.op import expert_mlp

__all__ = ["expert_mlp"]
