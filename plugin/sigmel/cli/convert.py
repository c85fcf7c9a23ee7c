"""`sigmel convert`: a CTC recogniser of one host into a model file of the other; see `sigmel.checkpoints`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.checkpoints import KINDS, format_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel convert`."""
    parser.add_argument("source", type=Path, help=f"model: {KINDS}")
    parser.add_argument("target", type=Path, help="file to write, whose suffix says of which of these kinds")


def run(args: argparse.Namespace) -> int:
    """Convert a model file."""
    source, target = format_of(args.source), format_of(args.target)
    model = source.read_ctc(args.source)
    target.write_ctc(model, args.target)
    print(f"{args.target}: {model.encoder}, {len(model.pieces)} tokens, from {args.source}")
    return 0
