"""Matplotlib, where it is installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sigmel.errors import optional_library


def load_pyplot() -> Any:
    """Matplotlib's pyplot, drawing into files.

    Raises:
        SigmelError: Matplotlib is not installed.
    """
    optional_library("matplotlib", "plots need", "pip install 'sigmel[plot]'").use("Agg")
    return import_module("matplotlib.pyplot")
