"""`sigmel transcribe`: audio into text, by a model of NeMo or ESPnet."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from sigmel.checkpoints import host_of
from sigmel.decoding.search.decoder import add_decoding_options
from sigmel.errors import SigmelError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel transcribe`."""
    parser.add_argument("model", type=Path, help="model (.nemo; .zip or .pth of ESPnet)")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="manifests (JSON lines)")
    parser.add_argument("-o", "--output", type=Path, help="folder for the transcripts; must not exist yet")
    parser.add_argument("--batch-size", type=int, default=16, help="utterances at a time (default: %(default)s)")
    parser.add_argument("--routing-stats", action="store_true", help="also write where the router sent the frames")
    parser.add_argument("--host", choices=("nemo", "espnet"), help="toolkit (default: by the suffix of the model)")
    add_decoding_options(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe manifests."""
    if args.output is None:
        raise SigmelError("--output: name a folder")
    args.manifests = [Path(name) for name in args.inputs]
    return importlib.import_module(f"sigmel.recipes.{args.host or host_of(args.model)}.transcribe").run(args)
