"""`sigmel list`: every registered name, without importing what it stands for."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from sigmel import registry
from sigmel.cli.table import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", help=f"only this kind: {', '.join(registry.KINDS)}")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; 1 when an entry is known to be unusable, 0 otherwise."""
    if arguments.kind is not None:
        registry.names(arguments.kind)  # Says so when there is no such kind.
    entries = [entry for entry in registry.entries() if arguments.kind in (None, entry.kind)]
    if arguments.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
    else:
        rows = [(entry.kind, entry.name, entry.location, entry.source) for entry in entries]
        print(table(("kind", "name", "class", "from"), rows))
    problems = sorted({entry.problem for entry in entries if entry.problem})
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0
