"""`sigmel list`: every registered name, without importing the class behind it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from sigmel import registry
from sigmel.cli.table import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel list`."""
    parser.add_argument("kind", nargs="?", help=f"only this kind: {', '.join(registry.KINDS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if an entry is known to be unusable, 0 otherwise."""
    if args.kind is not None:
        registry.names(args.kind)  # refuses an unknown kind
    entries = [entry for entry in registry.entries() if args.kind in (None, entry.kind)]
    if args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
    else:
        rows = [(entry.kind, entry.name, entry.location, entry.source) for entry in entries]
        print(table(("kind", "name", "class", "from"), rows))
    problems = sorted({entry.problem for entry in entries if entry.problem})
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
