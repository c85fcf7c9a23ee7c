"""Matplotlib, where it is installed."""

from __future__ import annotations

from typing import Any

from sigmel.errors import SigmelError


def load_pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files.

    Raises:
        SigmelError: Matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise SigmelError("plots need matplotlib: pip install 'sigmel[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
