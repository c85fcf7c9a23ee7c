"""``sigmel routing``: where a recogniser sends its frames, as tables and plots; see docs/routing.md."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.manifest import read_rows
from sigmel.files.pictures import load_pyplot
from sigmel.routing_study import plots
from sigmel.routing_study.page import page, write_table
from sigmel.routing_study.paths import count_paths
from sigmel.routing_study.phones import phones_of, read_alignments
from sigmel.routing_study.recogniser import RoutedRecogniser, Row
from sigmel.routing_study.robustness import conditions, robustness
from sigmel.routing_study.tables import Table, collect, describe
from sigmel.scoring.errors import load_kaldialign
from sigmel.scoring.results import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDED = {"tqdm": "tqdm", "sentencepiece": "sentencepiece", "yaml": "pyyaml"}  # modules and their packages


def draw(name: str, report: dict[str, Any], tables: dict[str, Table]) -> dict[str, Figure]:
    """The plots, by name; `report` is that of `RoutingWatch.report`, `name` that of the set."""
    layers = tables["layers"]
    figures = {
        "load": plots.load_per_layer(report, name),
        "entropy": plots.entropies(layers),
        "segments": plots.segments(tables["segments"]),
        "coverage": plots.coverage(tables["coverage"]),
        "experts": plots.expert_use(report),
    }
    for kind in ("token", "phone"):
        if table := tables.get(f"{kind}s"):
            information = [row[f"{kind}_information"] or 0.0 for row in layers]
            clearest = information.index(max(information)) + 1
            figures[f"{kind}s"] = plots.labels(table, kind, clearest)
    if len(layers) > 1:
        figures["overlap"] = plots.overlaps(tables["overlap"], len(layers))
    if len(tables["robustness"]) > 1:
        figures["robustness"] = plots.robustness(tables["robustness"])
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel routing``."""
    kinds = "NeMo's .nemo, ESPnet's packed .zip, or a .pth with config.yaml beside it"
    parser.add_argument("model", type=Path, help=kinds)
    parser.add_argument("manifest", type=Path, help="utterances (JSON lines)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report; must not exist yet")
    aligned = "which phone is spoken when, if the manifest does not say: a CTM file, or a folder of TextGrid files"
    parser.add_argument("--phones", type=Path, help=aligned)
    parser.add_argument("--batch-size", type=int, default=16, help="utterances at a time (default: %(default)s)")
    parser.add_argument("--utterances", type=int, help="take only the first so many (default: all)")
    parser.add_argument("--shuffles", type=int, default=3, help="shuffles of the experts (default: %(default)s)")
    parser.add_argument(
        "--paths", type=int, nargs="*", default=[1, 10, 100], help="keep so many paths (default: 1 10 100)"
    )
    parser.add_argument(
        "--noise", type=float, nargs="*", default=[0.5, 1.0, 2.0], help="deviations on the scores (default: 0.5 1 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of shuffles and noise (default: %(default)s)")


def run(args: argparse.Namespace, load: Callable[[Path], RoutedRecogniser]) -> int:
    """Run ``sigmel routing`` with what loads a model."""
    _check(args)
    for module, package in NEEDED.items():  # what is missing, or wrong, is said before the long work
        if importlib.util.find_spec(module) is None:
            raise SigmelError(f"sigmel routing needs {package}: pip install {package}")
    pyplot = load_pyplot()
    rows = read_rows(args.manifest)[: args.utterances]
    if args.phones:
        rows = _with_phones(rows, args.phones)
    for row in rows:
        phones_of(row)
    if any(row["text"].split() for row in rows):
        load_kaldialign()
    with atomic_dir(args.output) as folder:
        model = load(args.model)
        rows.sort(key=lambda row: row["duration"], reverse=True)  # batches of like lengths
        routed = collect(model, rows, args.batch_size)
        found, tables = describe(routed, args.seed)
        num_experts = [row["experts"] for row in tables["layers"]]
        paths = count_paths(routed.experts[..., 0]).paths
        tried = conditions(num_experts, paths, args.shuffles, args.paths, args.noise, args.seed)
        tables["robustness"] = robustness(model, rows, args.batch_size, tried)
        summary = {"model": args.model.name, "manifest": args.manifest.name, "utterances": len(routed.utterances)}
        summary |= {"skipped": len(routed.skipped), "seed": args.seed, **found}
        if tables["robustness"][0]["wer"] is None:
            summary["word_error_rate"] = "none: no utterance of the manifest has a text"

        figures = draw(args.manifest.stem, routed.report, tables)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
            pyplot.close(figure)
        for name, table in tables.items():
            write_table(folder / f"{name}.csv", table)
        skipped = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in routed.skipped)
        (folder / "skipped.jsonl").write_text(skipped, encoding="utf-8")
        everything = {"summary": summary, "tables": tables, "environment": environment()}
        (folder / "routing.json").write_text(json.dumps(everything, ensure_ascii=False, indent=1), encoding="utf-8")
        title = f"Routing of {args.model.name}, {args.manifest.stem}"
        (folder / "index.html").write_text(page(title, summary, tables, list(figures)), encoding="utf-8")
    note = f", {len(routed.skipped)} without usable audio (see skipped.jsonl)" if routed.skipped else ""
    print(f"{args.output / 'index.html'}: {summary['utterances']} utterances, {summary['frames']} frames{note}")
    return 0


def _with_phones(rows: list[Row], path: Path) -> list[Row]:
    alignments = read_alignments(path)
    if not any(row["id"] in alignments for row in rows):
        raise SigmelError(f"{path}: knows none of the ids of the manifest, such as {rows[0]['id']!r}")
    return [row | {"phones": alignments.get(row["id"])} for row in rows]


def _check(args: argparse.Namespace) -> None:
    numbers = [("--batch-size", args.batch_size, 1), ("--shuffles", args.shuffles, 0)]
    numbers += [("--paths", count, 1) for count in args.paths]
    numbers += [("--noise", deviation, 0) for deviation in args.noise]
    if args.utterances is not None:
        numbers.append(("--utterances", args.utterances, 1))
    for option, value, least in numbers:
        if not least <= value < math.inf:
            raise SigmelError(f"{option}: {value} must be at least {least}, and finite")
