"""`sigmel routing`: where a recogniser sends its frames, as tables and plots; see docs/routing.md."""

from __future__ import annotations

import argparse
import importlib
import math
from pathlib import Path

from sigmel.checkpoints import KINDS, host_of
from sigmel.checkpoints.checkpoint import NeedsHost
from sigmel.errors import SigmelError
from sigmel.features.plots import load_pyplot
from sigmel.files.atomic import atomic_dir
from sigmel.files.manifest import read_rows
from sigmel.routing_study.paths import count_paths
from sigmel.routing_study.phones import phones_of, with_phones
from sigmel.routing_study.plots import draw
from sigmel.routing_study.recogniser import RoutedRecogniser, load_recogniser
from sigmel.routing_study.report import write_report
from sigmel.routing_study.robustness import conditions, robustness
from sigmel.routing_study.tables import collect, describe
from sigmel.scoring.error_rates import load_kaldialign


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel routing`."""
    parser.add_argument("model", type=Path, help=f"model: {KINDS}")
    parser.add_argument("manifest", type=Path, help="utterances (JSON lines)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the report; must not exist yet")
    aligned = "alignment of phones, if the manifest has none: a CTM file, or a folder of TextGrid files"
    parser.add_argument("--phones", type=Path, help=aligned)
    parser.add_argument("--batch-size", type=int, default=16, help="utterances at a time (default: %(default)s)")
    parser.add_argument("--utterances", type=int, help="take only the first N utterances (default: all)", metavar="N")
    parser.add_argument("--shuffles", type=int, default=3, help="shuffles of the experts (default: %(default)s)")
    parser.add_argument(
        "--paths", type=int, nargs="*", default=[1, 10, 100], help="numbers of paths to keep (default: 1 10 100)"
    )
    parser.add_argument(
        "--noise", type=float, nargs="*", default=[0.5, 1.0, 2.0], help="deviations on the scores (default: 0.5 1 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of shuffles and noise (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the report; 1 if audio could not be used. Whatever is missing or wrong is said before the long work."""
    _check(args)
    load_pyplot()
    rows = read_rows(args.manifest)[: args.utterances]
    if args.phones:
        rows = with_phones(rows, args.phones)
    for row in rows:
        phones_of(row)
    has_text = any(row["text"].split() for row in rows)
    if has_text:
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
        title = f"Routing of {args.model.name}, {args.manifest.stem}"
        figures = draw(args.manifest.stem, routed.report, tables)
        write_report(folder, title, summary, tables, figures, routed.skipped)
    note = f", {len(routed.skipped)} without usable audio (see skipped.jsonl)" if routed.skipped else ""
    print(f"{args.output / 'index.html'}: {summary['utterances']} utterances, {summary['frames']} frames{note}")
    return 1 if routed.skipped else 0


def load(path: Path) -> RoutedRecogniser:
    """Load a recogniser, with its host if need be.

    Raises:
        SigmelError: the model cannot be loaded, or needs a host that is not installed; the message names the file.
    """
    try:
        return load_recogniser(path)
    except NeedsHost as error:
        reason = error
    try:
        host = importlib.import_module(f"sigmel.hosts.{host_of(path)}.recogniser")
    except SigmelError as error:  # the host is not installed
        raise SigmelError(f"{reason}, and {error}") from error
    return host.load_recogniser(path)


def _check(args: argparse.Namespace) -> None:
    numbers = [("--batch-size", args.batch_size, 1), ("--shuffles", args.shuffles, 0)]
    numbers += [("--paths", count, 1) for count in args.paths]
    numbers += [("--noise", deviation, 0) for deviation in args.noise]
    if args.utterances is not None:
        numbers.append(("--utterances", args.utterances, 1))
    for option, value, least in numbers:
        if not least <= value < math.inf:
            raise SigmelError(f"{option}: {value} must be at least {least}, and finite")
