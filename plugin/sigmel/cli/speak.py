"""`sigmel speak`: the texts of a manifest into audio, by a model of NeMo or ESPnet that has learned to speak."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from sigmel.checkpoints import host_of
from sigmel.recipes.options import at_least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel speak`."""
    parser.add_argument("model", type=Path, help="model (.nemo; .zip of ESPnet)")
    parser.add_argument("texts", type=Path, help="manifest (JSON lines); any audio in it is ignored")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the audio; must not exist yet")
    parser.add_argument("--voices", type=Path, help="manifest of recordings, for a model of several voices")
    parser.add_argument("--batch-size", type=at_least(1), default=16, help="texts at a time (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="seed of the sampling (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.9, help="0 takes the most probable bins (default: %(default)s)"
    )
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="share of probability to draw from (default: %(default)s)"
    )
    parser.add_argument(
        "--max-frames", type=at_least(1), default=1000, help="most frames a text (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Speak texts."""
    return importlib.import_module(f"sigmel.recipes.{host_of(args.model)}.speak").run(args)
