"""`sigmel espnet3`: ESPnet3 with sigmel's classes, which is what `python -m sigmel.hosts.espnet3` runs."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say where the options are explained: they are ESPnet3's."""
    parser.epilog = "Options are those of ESPnet3: python -m sigmel.hosts.espnet3 --help"


def run(args: argparse.Namespace) -> int:
    """Run the stages that ESPnet3's options ask for."""
    from sigmel.hosts.espnet.runner import run_module

    run_module("sigmel.hosts.espnet3", args.arguments)
    return 0
