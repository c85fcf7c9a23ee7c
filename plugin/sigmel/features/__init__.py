"""Speech features."""

from sigmel.features.dmel import DMelTokenizer

__all__ = ["DMelTokenizer"]
