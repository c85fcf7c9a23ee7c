"""``results.json`` and the tables printed from it.

A results file is a list of rows, one a test set and system, written by ``sigmel score --results``. Its tables are made
only by ``sigmel results``, which also puts them into a README, between two marker lines.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path, locked

Row = dict[str, Any]
KEY = ("test_set", "host", "size", "routing", "attention", "graph", "seed")
SYSTEM = ("host", "size", "routing", "attention", "graph")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
LEAVE_ONE_OUT = "test_loso_"


def read_results(path: Path) -> list[Row]:
    """Read a results file.

    Raises:
        SigmelError: it is not a list of rows, or a row lacks what the tables need.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SigmelError(f"{path}: no such file; `sigmel score --results` makes it") from error
    except json.JSONDecodeError as error:
        raise SigmelError(f"{path}: not JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SigmelError(f"{path}: not a list of rows")
    for number, row in enumerate(rows, start=1):
        if absent := [key for key in ("test_set", "wer", "cer", "words") if key not in row]:
            raise SigmelError(f"{path}: row {number} lacks {', '.join(absent)}")
    return rows


def add_rows(path: Path, rows: Iterable[Row]) -> None:
    """Merge rows into a results file, atomically: a row replaces that of the same set and system (`KEY`)."""
    with locked(path.parent):  # several systems may be scored at once
        old = read_results(path) if path.exists() else []
        merged = {_key(row): row for row in [*old, *rows]}
        with atomic_path(path) as temporary:
            ordered = [merged[key] for key in sorted(merged)]
            temporary.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def environment() -> dict[str, str]:
    """Return where and with what a figure was made."""
    facts = {"date": datetime.date.today().isoformat(), "python": platform.python_version()}
    for name, package in (
        ("torch", "torch"),
        ("nemo", "nemo_toolkit"),
        ("espnet", "espnet"),
        ("sigmel", "sigmel"),
    ):
        try:
            facts[name] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if commit.returncode == 0:
        facts["commit"] = commit.stdout.strip()
    return facts | {"cpu": f"{_cpu_model()}, {os.cpu_count()} cores", "system": platform.system()}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def summary_table(rows: Sequence[Row]) -> str:
    """Return a table with a line a test set and system: means over seeds.

    Sets that leave one speaker out also get a line with the mean over speakers.
    """
    header = ["Test set", "System", "Seeds", "WER %", "95 %", "CER %", "Params (active)", "Training", "RTFx"]
    body = []
    for (test_set, *_), group in _groups(rows, ("test_set", *SYSTEM)):
        body.append(_summary_line(test_set, group, "–".join(f"{group[0][k]:.1f}" for k in ("wer_low", "wer_high"))))
        if len(group) > 1:
            body[-1][4] = f"± {statistics.stdev(row['wer'] for row in group):.2f} (sd)"
    for _, group in _groups([row for row in rows if row["test_set"].startswith(LEAVE_ONE_OUT)], SYSTEM):
        speakers = {row["test_set"] for row in group}
        name = f"**leave-one-speaker-out, mean of {len(speakers)}**"
        low, high = (f(row["wer"] for row in group) for f in (min, max))
        body.append(_summary_line(name, group, f"{low:.1f}–{high:.1f} (range)"))
    return markdown_table(header, body)


def _summary_line(name: str, group: Sequence[Row], spread: str) -> list[str]:
    def mean(key: str, show: Callable[[float], str]) -> str:
        values = [row[key] for row in group if row.get(key) is not None]
        return show(statistics.fmean(values)) if values else ""

    return [
        name,
        _system(group[0]),
        str(len({row.get("seed") for row in group})),
        mean("wer", lambda x: f"{x:.2f}"),
        spread,
        mean("cer", lambda x: f"{x:.2f}"),
        f"{mean('params_total', _millions)} ({mean('params_active', _millions)})",
        mean("training_seconds", lambda x: f"{x / 60:.1f} min"),
        mean("rtfx", lambda x: f"{x:.0f}"),
    ]


def error_table(rows: Sequence[Row], unit: str) -> str:
    """Return Kaldi's table, in percent, of every set and system; ``unit`` is "word" or "character"."""
    prefix = "" if unit == "word" else "character_"
    total, rate = ("words", "wer") if unit == "word" else ("characters", "cer")
    header = ["dataset", "Snt", "Wrd" if unit == "word" else "Chr", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    body = []
    for row in sorted(rows, key=_key):
        sub, delete, insert = (100 * row[f"{prefix}{kind}"] / row[total] for kind in ("sub", "del", "ins"))
        percents = [100 - sub - delete, sub, delete, insert, row[rate]]
        percents.append(100 * row["utterances_wrong"] / row["utterances"])
        seed = f" seed {row['seed']}" if "seed" in row else ""
        name = f"{row['test_set']} {_system(row)}{seed}"
        body.append([name, str(row["utterances"]), str(row[total]), *(f"{value:.1f}" for value in percents)])
    return markdown_table(header, body)


def environment_table(rows: Sequence[Row]) -> str:
    """Return a list of what the figures were made with: every version that occurs."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.get("environment", {}).items():
            found.setdefault(name, set()).add(value)
    return "\n".join(f"- {name}: {', '.join(sorted(values))}" for name, values in found.items())


def report(rows: Sequence[Row]) -> str:
    """Return everything a README shows of a results file, in Markdown."""
    return "\n\n".join(
        [
            summary_table(rows),
            "<details><summary>Word errors, in percent</summary>",
            error_table(rows, "word"),
            "</details>\n\n<details><summary>Character errors, in percent</summary>",
            error_table(rows, "character"),
            "</details>",
            "Environment:\n\n" + environment_table(rows),
        ]
    )


def put_between(path: Path, content: str) -> None:
    """Replace what stands between the marker lines of a README.

    Raises:
        SigmelError: the markers are not there.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SigmelError(f"{path}: has no lines {BEGIN} and {END} to put the results between")
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}", encoding="utf-8")


def _key(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name, "")) for name in KEY)


def _groups(rows: Iterable[Row], names: Sequence[str]) -> list[tuple[tuple[str, ...], list[Row]]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=_key):
        groups.setdefault(tuple(str(row.get(name, "")) for name in names), []).append(row)
    return list(groups.items())


def _system(row: Row) -> str:
    return " ".join(str(row[name]) for name in SYSTEM if name in row)


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f}M"


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, the first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel results``."""
    parser.add_argument("results", type=Path, help="a results.json")
    parser.add_argument("--update-readme", type=Path, metavar="README", help="put the tables between its markers")


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel results``."""
    rows = read_results(args.results)
    print(summary_table(rows))
    if args.update_readme:
        put_between(args.update_readme, report(rows))
    return 0
