"""``sigmel routing``: where a recogniser sends its frames, as tables and plots; see docs/routing.md."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sigmel.analysis import plots, routing_plots
from sigmel.analysis.agreement import layer_pairs, token_association, token_table
from sigmel.analysis.paths import LONG_RUN, count_paths, independent, longest_runs
from sigmel.analysis.recogniser import BLANK, RoutedRecogniser, Row, batches, load_recogniser
from sigmel.analysis.results import environment
from sigmel.analysis.robustness import conditions, robustness
from sigmel.analysis.routing import watch_routing
from sigmel.analysis.scoring import load_kaldialign
from sigmel.data.atomic import atomic_dir
from sigmel.data.manifest import read_rows
from sigmel.errors import SigmelError
from sigmel.layers.masks import valid_frames

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTED_PATHS = 1000  # rows of paths.csv
LISTED_TOKENS = 200  # tokens of tokens.csv, in each layer
SHOWN = 20  # rows of a long table on the page
NEEDED = {"tqdm": "tqdm", "sentencepiece": "sentencepiece", "yaml": "pyyaml"}  # modules and their packages
Table = list[dict[str, Any]]


class Routed(NamedTuple):
    """What a set did.

    Attributes:
        report: of `RoutingWatch.report`.
        experts: (N, L, K) int16, the experts of all its frames.
        tokens: (N,) int64, the best token of each.
        utterances: how many had usable audio.
        skipped: rows that had not, with a ``reason``.
    """

    report: dict[str, Any]
    experts: Tensor
    tokens: Tensor
    utterances: int
    skipped: list[Row]


@torch.inference_mode()
def collect(model: RoutedRecogniser, rows: Sequence[Row], batch_size: int) -> Routed:
    """Encode manifest rows and keep what the routers decided; shows its progress.

    Raises:
        SigmelError: no row has usable audio; the message has the first one's reason.
    """
    from tqdm import tqdm

    done: list[Row] = []
    skipped: list[Row] = []
    experts, tokens = [], []
    with watch_routing(model) as watch, tqdm(total=len(rows), desc="routing", unit="utt", mininterval=1.0) as progress:
        assert watch is not None  # it has routers
        for batch in batches(model, rows, batch_size, skipped):
            output = model(batch.waveforms, batch.lengths)
            valid = valid_frames(output.lengths, output.hidden.shape[1])
            chosen = torch.stack([decision.experts[valid] for decision in output.routing], dim=1)
            experts.append(chosen.to("cpu", torch.int16))
            tokens.append(model.tokens(output.hidden)[valid].cpu())
            done += batch.rows
            progress.update(len(batch.rows))
    if not done:
        raise SigmelError(f"no utterance has usable audio; the first: {skipped[0]['reason']}")
    report = watch.report(done, model.window_stride)
    return Routed(report, torch.cat(experts), torch.cat(tokens), len(done), skipped)


def describe(model: RoutedRecogniser, routed: Routed, seed: int) -> tuple[dict[str, Any], dict[str, Table]]:
    """Everything that the decisions of a set say.

    Args:
        model: the recogniser.
        routed: what it did.
        seed: of the independent layers that paths and runs are compared with.

    Returns:
        A summary, ready for JSON, and the tables "layers", "load", "overlap", "paths", "coverage", "runs" and
        "tokens"; see docs/routing.md for their columns.
    """
    first = routed.experts[..., 0]
    speaks = routed.tokens != BLANK
    spoken = token_association(first[speaks], routed.tokens[speaks], len(model.names))
    every = token_association(first, routed.tokens, len(model.names))
    layers: Table = []
    load: Table = []
    for number, layer in enumerate(routed.report["layers"], start=1):
        row: dict[str, Any] = {
            "layer": number,
            "router": model.layer_routers[number - 1] + 1,
            "experts": len(layer["load"]),
        }
        row |= {"entropy": layer["entropy"], "relative_entropy": layer["entropy"] / math.log(row["experts"])}
        row |= {"dead_experts": layer["dead_experts"], "token_information": every[number - 1].mutual_information}
        layers.append(row | {"spoken_token_information": spoken[number - 1].mutual_information})
        load += [{"layer": number, "expert": expert, "share": share} for expert, share in enumerate(layer["load"])]

    counts, chance = count_paths(first), count_paths(dealt := independent(first, seed))
    covered, covered_by_chance = counts.coverage(), chance.coverage()
    paths = [
        {
            "rank": rank,
            "path": "-".join(map(str, path)),
            "frames": frames,
            "share": frames / len(first),
            "cumulative": c,
        }
        for rank, (path, frames, c) in enumerate(
            zip(*(column[:LISTED_PATHS].tolist() for column in (*counts, covered)), strict=True), start=1
        )
    ]
    coverage = [
        {
            "paths": k,
            "share": covered[k - 1].item(),
            "independent": covered_by_chance[min(k, len(chance[0])) - 1].item(),
        }
        for k in _round_numbers(len(covered))
    ]
    depth = first.shape[1]
    length, length_by_chance = longest_runs(first), longest_runs(dealt)
    runs = [
        {"layers": n, "share": _share(length == n), "independent": _share(length_by_chance == n)}
        for n in range(1, depth + 1)
    ]
    summary = {
        "frames": len(first),
        "blank_frames": _share(~speaks),
        "distinct_paths": len(covered),
        "distinct_paths_independent": len(covered_by_chance),
        "long_runs": _share(length >= LONG_RUN),
        "long_runs_independent": _share(length_by_chance >= LONG_RUN),
    }
    tables = {"layers": layers, "load": load, "overlap": layer_pairs(routed.experts, model.layer_routers)}
    tables |= {"paths": paths, "coverage": coverage, "runs": runs}
    tables["tokens"] = token_table(first, routed.tokens, model.names, LISTED_TOKENS)
    return summary, tables


def draw(name: str, report: dict[str, Any], tables: dict[str, Table]) -> dict[str, Figure]:
    """The plots, by name; `report` is that of `RoutingWatch.report`, `name` that of the set."""
    layers = tables["layers"]
    clearest = max(layers, key=lambda row: row["token_information"] or 0)["layer"]
    figures = {
        "load": plots.load_per_layer(report, name),
        "entropy": routing_plots.entropies(layers),
        "coverage": routing_plots.coverage(tables["coverage"]),
        "tokens": routing_plots.tokens(tables["tokens"], clearest),
        "experts": plots.expert_use(report),
    }
    if len(layers) > 1:
        figures["overlap"] = routing_plots.overlaps(tables["overlap"], len(layers))
    if len(tables.get("robustness", [])) > 1:
        figures["robustness"] = routing_plots.robustness(tables["robustness"])
    return figures


def write_table(path: Path, rows: Table) -> None:
    """Write rows with the same keys as CSV; None is empty, a list has its values side by side."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _plain(value) for key, value in row.items()})


def page(title: str, summary: dict[str, Any], tables: dict[str, Table], figures: Sequence[str]) -> str:
    """The page that holds tables and plots together, as HTML; the images and the CSV files lie beside it."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title)}</title>",
        "<style>body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em}img{max-width:100%}",
        "table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .7em;border-bottom:1px solid #ccc;",
        "text-align:right}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _html_table([{"": key.replace("_", " "), " ": value} for key, value in summary.items()]),
    ]
    for name in dict.fromkeys([*tables, *figures]):
        parts.append(f"<h2>{escape(name)}</h2>")
        if name in figures:
            parts.append(f'<p><img src="{name}.png" alt="{escape(name)}"></p>')
        if rows := tables.get(name):
            parts.append(_html_table(rows[:SHOWN]))
            more = f", with {len(rows) - SHOWN} more rows" if len(rows) > SHOWN else ""
            parts.append(f'<p><a href="{name}.csv">{name}.csv</a>{more}</p>')
    return "\n".join([*parts, "</body></html>", ""])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel routing``."""
    kinds = "NeMo's .nemo, ESPnet's packed .zip, or a .pth with config.yaml beside it"
    parser.add_argument("model", type=Path, help=kinds)
    parser.add_argument("manifest", type=Path, help="utterances (JSON lines)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the report; must not exist yet")
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


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel routing``."""
    _check(args)
    for module, package in NEEDED.items():  # what is missing is said before the long work
        if importlib.util.find_spec(module) is None:
            raise SigmelError(f"sigmel routing needs {package}: pip install {package}")
    plots.load_pyplot()
    rows = read_rows(args.manifest)[: args.utterances]
    if any(row["text"].split() for row in rows):
        load_kaldialign()
    with atomic_dir(args.output) as folder:
        model = load_recogniser(args.model)
        rows.sort(key=lambda row: row["duration"], reverse=True)  # batches of like lengths
        routed = collect(model, rows, args.batch_size)
        found, tables = describe(model, routed, args.seed)
        num_experts = [row["experts"] for row in tables["layers"]]
        paths = count_paths(routed.experts[..., 0]).paths
        tried = conditions(num_experts, paths, args.shuffles, args.paths, args.noise, args.seed)
        tables["robustness"] = robustness(model, rows, args.batch_size, tried)
        summary = {"model": args.model.name, "manifest": args.manifest.name, "utterances": routed.utterances}
        summary |= {"skipped": len(routed.skipped), "seed": args.seed, **found}
        if tables["robustness"][0]["wer"] is None:
            summary["word_error_rate"] = "none: no utterance of the manifest has a text"

        figures = draw(args.manifest.stem, routed.report, tables)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=150)
        for name, table in tables.items():
            write_table(folder / f"{name}.csv", table)
        skipped = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in routed.skipped)
        (folder / "skipped.jsonl").write_text(skipped, encoding="utf-8")
        everything = {"summary": summary, "tables": tables, "environment": environment()}
        (folder / "routing.json").write_text(json.dumps(everything, ensure_ascii=False, indent=1), encoding="utf-8")
        title = f"Routing of {args.model.name}, {args.manifest.stem}"
        (folder / "index.html").write_text(page(title, summary, tables, list(figures)), encoding="utf-8")
    note = f", {len(routed.skipped)} without usable audio (see skipped.jsonl)" if routed.skipped else ""
    print(f"{args.output / 'index.html'}: {routed.utterances} utterances, {summary['frames']} frames{note}")
    return 0


def _check(args: argparse.Namespace) -> None:
    numbers = [("--batch-size", args.batch_size, 1), ("--shuffles", args.shuffles, 0)]
    numbers += [("--paths", count, 1) for count in args.paths]
    numbers += [("--noise", deviation, 0) for deviation in args.noise]
    if args.utterances is not None:
        numbers.append(("--utterances", args.utterances, 1))
    for option, value, least in numbers:
        if not least <= value < math.inf:
            raise SigmelError(f"{option}: {value} must be at least {least}, and finite")


def _round_numbers(most: int) -> list[int]:
    """1, 2, 5, 10, 20, ... below `most`, and `most`."""
    steps = (factor * 10**power for power in range(len(str(most))) for factor in (1, 2, 5))
    return [*(step for step in steps if step < most), most]


def _share(frames: Tensor) -> float:
    return frames.double().mean().item()


def _plain(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _html_table(rows: Table) -> str:
    def cell(value: Any) -> str:
        values = value if isinstance(value, list) else [value]
        shown = (f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in values)
        return f"<td>{escape(' '.join(shown))}</td>"

    head = "".join(f"<th>{escape(key.replace('_', ' '))}</th>" for key in rows[0])
    body = "".join(f"<tr>{''.join(map(cell, row.values()))}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"
