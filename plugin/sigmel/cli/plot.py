"""`sigmel plot`: training curves and expert use of an experiment as PNG files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.manifest import read_rows
from sigmel.routing_study.plots import expert_use, load_per_layer
from sigmel.scoring.plots import heard_together, training_curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel plot`."""
    parser.add_argument("experiment", type=Path, help="folder with metrics.csv and decode/<set>.routing.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the plots; must not exist yet")


def run(args: argparse.Namespace) -> int:
    """Plot an experiment."""
    metrics = args.experiment / "metrics.csv"
    if not metrics.is_file():
        raise SigmelError(f"{metrics}: no such file; train first")
    figures = {"training": training_curve(metrics)}
    for path in sorted((args.experiment / "decode").glob("*.routing.json")):
        name, routing = path.name.removesuffix(".routing.json"), json.loads(path.read_text())
        figures[f"load_{name}"] = load_per_layer(routing, name)
        figures[f"experts_{name}"] = expert_use(routing)
    spoken = args.experiment / "decode/spoken.jsonl"
    if spoken.is_file():
        figures["spoken"] = heard_together(_same_texts(spoken))
    with atomic_dir(args.output) as folder:
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=120)
    print(f"{args.output}: {', '.join(f'{name}.png' for name in figures)}")
    return 0


def _same_texts(first: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows with audio of a decoded set, and the same utterances of the sets beside it that have them all."""
    rows = {}
    for path in sorted(first.parent.glob("*.jsonl"), key=lambda path: (path != first, path.name)):
        if not path.name.endswith(".skipped.jsonl"):
            rows[path.stem] = {row["id"]: row for row in read_rows(path)}
    ids = [name for name, row in rows[first.stem].items() if row["duration"]]
    return {name: {id: of[id] for id in ids} for name, of in rows.items() if of.keys() >= set(ids)}
