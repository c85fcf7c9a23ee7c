"""``sigmel routing`` for recognisers that need no host, and for those that only NeMo can run."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.analysis import routing_report
from sigmel.analysis.recogniser import RoutedRecogniser, load_recogniser
from sigmel.analysis.routing_report import add_arguments as add_arguments
from sigmel.errors import SigmelError


def load(path: Path) -> RoutedRecogniser:
    """Load a recogniser: without its host if that can be, else with it.

    Raises:
        SigmelError: neither can be; the message names the file and says why.
    """
    from sigmel.models.checkpoint import NeedsHost

    try:
        return load_recogniser(path)
    except NeedsHost as error:
        if path.suffix != ".nemo":
            raise
        reason = error
    try:
        from sigmel.hosts.nemo.routed import load_recogniser as load_with_nemo
    except SigmelError as error:
        raise SigmelError(f"{reason}, and {error}") from error
    return load_with_nemo(path)


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel routing``."""
    return routing_report.run(args, load)
