"""`sigmel results`: the table of results files, printed, and published in a recipe's README."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.scoring.results import merged, publish, read_results, summary_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel results`."""
    parser.add_argument("results", nargs="+", type=Path, help="results.json files")
    parser.add_argument(
        "--publish", type=Path, metavar="RECIPE", help="merge the rows into RECIPE/results.json and its README.md"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table and publish it, if asked to."""
    rows = merged(row for path in args.results for row in read_results(path))
    print(summary_table(rows))
    if args.publish:
        publish(rows, args.publish)
    return 0
