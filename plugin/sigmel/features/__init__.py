"""Speech features."""

from sigmel.features.dmel_tokenizer import DMelTokenizer

__all__ = ["DMelTokenizer"]
