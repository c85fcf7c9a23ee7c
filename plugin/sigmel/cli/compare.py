"""`sigmel compare`: compare systems that were trained with several seeds."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path
from sigmel.scoring.comparison import compare, plot, read_system, tables
from sigmel.scoring.results import check_markers, put_between


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel compare`."""
    parser.add_argument(
        "--system",
        nargs="+",
        action="append",
        required=True,
        metavar=("NAME", "DIR"),
        help="a system and its experiments, one for each seed; may be repeated",
    )
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar=("SYSTEM", "BASELINE"),
        help="a difference to compute; may be repeated (default: of each system from the first one)",
    )
    parser.add_argument(
        "--in-domain", default="test", help="test set from the domains of training (default: %(default)s)"
    )
    parser.add_argument("--step-time", type=Path, help="JSON: system -> milliseconds of a training step")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for JSON, tables and plot")
    parser.add_argument(
        "--publish", type=Path, metavar="RECIPE", help="also write into RECIPE/comparison and its README.md"
    )


def run(args: argparse.Namespace) -> int:
    """Compare systems, print the tables and write them."""
    if short := [given[0] for given in args.system if len(given) < 2]:
        raise SigmelError(f"--system {short[0]}: names no experiment")
    if args.publish:
        check_markers(args.publish / "README.md")
    systems = [read_system(name, list(map(Path, folders))) for name, *folders in args.system]
    step_time = json.loads(args.step_time.read_text()) if args.step_time else {}
    first, *others = (system.name for system in systems)
    pairs = args.pair or [(name, first) for name in others]
    found = compare(systems, pairs, args.in_domain, step_time)
    _write(args.output, found)
    if args.publish:
        _write(args.publish / "comparison", found)
        put_between(args.publish / "README.md", tables(found))
    print(tables(found))
    return 0


def _write(folder: Path, found: dict[str, Any]) -> None:
    """Write a comparison; each file replaces its predecessor when it is complete."""
    for name, text in (("comparison.json", json.dumps(found, indent=1)), ("comparison.md", tables(found))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    with atomic_path(folder / "wer.png") as temporary:
        plot(found).savefig(temporary, dpi=150)
