"""The options of every command that decodes by a graph."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sigmel.decoding.search.decoder import BACKENDS
from sigmel.decoding.search.search import Search

OPTIONS = ("graph", "backend", "beam", "lattice_beam", "rescore", "rescore_scale")


def add_decoding_options(parser: argparse._ActionsContainer, required: bool = False) -> None:
    """Let a command's parser, or a group of it, take them; words may be joined by - or by _, as ESPnet does."""
    parser.add_argument(
        "--graph", type=Path, required=required, help="decode with this graph, see `sigmel graph build`"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what decodes (default: %(default)s)")
    parser.add_argument("--beam", type=float, default=Search.beam, help="of the search (default: %(default)s)")
    parser.add_argument(
        "--lattice-beam", "--lattice_beam", type=float, default=Search.lattice_beam, help="(default: %(default)s)"
    )
    parser.add_argument("--rescore", type=Path, help="n-gram model (.arpa, .arpa.gz) that rescores every lattice")
    parser.add_argument(
        "--rescore-scale", "--rescore_scale", type=float, default=1.0, help="multiplies its scores (%(default)s)"
    )


def decoding_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What they say, but for the graph itself: options of `GraphDecoder`, and of `sigmel.hosts.nemo.use_graph`."""
    return {
        "backend": arguments.backend,
        "search": Search(beam=arguments.beam, lattice_beam=arguments.lattice_beam),
        "rescore": arguments.rescore,
        "rescore_scale": arguments.rescore_scale,
    }
