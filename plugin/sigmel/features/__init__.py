"""Speech features."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sigmel.features.dmel import DMelTokenizer

__all__ = ["DMelTokenizer"]


def __getattr__(name: str) -> object:
    """Imported when asked for: programs that resample have no use for torch."""
    if name != "DMelTokenizer":
        raise AttributeError(f"module 'sigmel.features' has no attribute {name!r}")
    from sigmel.features.dmel import DMelTokenizer

    return DMelTokenizer
