"""`sigmel routing` for recognisers that need no host, and for those that do."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from sigmel.checkpoints import host_of
from sigmel.checkpoints.ctc import NeedsHost
from sigmel.errors import SigmelError
from sigmel.routing_study import report as routing_report
from sigmel.routing_study.recogniser import RoutedRecogniser, load_recogniser
from sigmel.routing_study.report import add_arguments as add_arguments


def load(path: Path) -> RoutedRecogniser:
    """Load a recogniser: without its host if that can be, else with it.

    Raises:
        SigmelError: neither can be; the message names the file and says why.
    """
    try:
        return load_recogniser(path)
    except NeedsHost as error:
        reason = error
    try:
        host = importlib.import_module(f"sigmel.hosts.{host_of(path)}.recogniser")
    except SigmelError as error:  # it is not installed
        raise SigmelError(f"{reason}, and {error}") from error
    return host.load_recogniser(path)


def run(args: argparse.Namespace) -> int:
    """Run `sigmel routing`."""
    return routing_report.run(args, load)
