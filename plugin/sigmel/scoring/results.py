"""`results.json` and the tables that are printed from it.

A results file is a list of rows, one for each test set and system, which `sigmel score --results` writes. A row holds
what was measured (`MEASURED`) and tags, which tell rows apart: the test set, and the options that made the system. The
tables go into a README between two markers.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path, locked

Row = dict[str, Any]
MEASURED = {"wer", "wer_low", "wer_high", "sub", "del", "ins", "words", "utterances", "utterances_wrong"}
MEASURED |= {"cer", "cer_low", "cer_high", "character_sub", "character_del", "character_ins", "characters"}
MEASURED |= {"params_total", "params_active", "training_seconds", "rtfx", "environment"}
USUAL_TAGS = ("host", "size", "routing", "attention", "graph")  # tables show their values without their names
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
LEAVE_ONE_OUT = "test_loso_"  # followed by the speaker, whom the tag `test_speaker` repeats


def read_results(path: Path) -> list[Row]:
    """Read a results file.

    Raises:
        SigmelError: the file is missing or not a list of rows, or a row lacks what the tables need.
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


def merged(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of their tags; of rows with the same tags, the last."""
    return [group[-1] for group in _groups(rows)]


def add_rows(path: Path, rows: Iterable[Row]) -> None:
    """Merge rows into a results file, atomically: a row replaces the row with the same tags."""
    with locked(path.parent):  # several systems may be scored at once
        old = read_results(path) if path.exists() else []
        with atomic_path(path) as temporary:
            temporary.write_text(
                json.dumps(merged([*old, *rows]), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )


def publish(rows: Sequence[Row], recipe: Path) -> None:
    """Merge rows into the `results.json` of a recipe and put its tables into the recipe's `README.md`.

    Raises:
        SigmelError: the README has no markers.
    """
    check_markers(recipe / "README.md")
    add_rows(recipe / "results.json", rows)
    put_between(recipe / "README.md", report(read_results(recipe / "results.json")))


def tag_names(rows: Iterable[Row]) -> list[str]:
    """The names of all tags that rows have, in the order of the tables."""
    first = ["test_set", *USUAL_TAGS]
    others = {name for row in rows for name in row} - MEASURED - {*first, "seed"}
    return [*first, *sorted(others), "seed"]


def _groups(rows: Iterable[Row], leave_out: Sequence[str] = ()) -> list[list[Row]]:
    """Rows in the order of their tags, put together where all tags but those left out are equal."""
    rows = list(rows)
    names = tag_names(rows)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: _values(row, names)):
        groups.setdefault(_values(row, [name for name in names if name not in leave_out]), []).append(row)
    return list(groups.values())


def _values(row: Row, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(row.get(name, "")) for name in names)


def _system(row: Row) -> str:
    """What tables call the system of a row."""
    names = [name for name in tag_names([row]) if name in row and name not in ("test_set", "test_speaker", "seed")]
    return " ".join(str(row[name]) if name in USUAL_TAGS else f"{name}={row[name]}" for name in names)


def environment() -> dict[str, str]:
    """Where and with what a figure was made."""
    facts = {"date": datetime.date.today().isoformat(), "python": platform.python_version()}
    for name, package in {"torch": "torch", "nemo": "nemo_toolkit", "espnet": "espnet", "sigmel": "sigmel"}.items():
        try:
            facts[name] = version(package)
        except PackageNotFoundError:
            continue
    if commit := _commit():
        facts["commit"] = commit
    return facts | {"cpu": f"{_cpu_model()}, {os.cpu_count()} cores", "system": platform.system()}


def _commit() -> str:
    """The commit of the checkout that this file belongs to; "" for an installed package, or without git."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") if shutil.which("git") and git("ls-files", Path(__file__).name) else ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def summary_table(rows: Sequence[Row]) -> str:
    """A table with a line for each test set and system: means over seeds.

    Test sets that leave one speaker out also get a line with the mean over speakers.
    """
    header = ["Test set", "System", "Seeds", "WER %", "95 %", "CER %", "Params (active)", "Training", "RTFx"]
    body = []
    for group in _groups(rows, leave_out=["seed"]):
        spread = "–".join(f"{group[0][key]:.1f}" for key in ("wer_low", "wer_high"))
        if len(group) > 1:
            spread = f"± {statistics.stdev(row['wer'] for row in group):.2f} (sd)"
        body.append(_summary_line(group[0]["test_set"], group, spread))
    left_out = [row for row in rows if row["test_set"].startswith(LEAVE_ONE_OUT)]
    for group in _groups(left_out, leave_out=["test_set", "test_speaker", "seed"]):
        name = f"**leave-one-speaker-out, mean of {len({row['test_set'] for row in group})}**"
        low, high = (extreme(row["wer"] for row in group) for extreme in (min, max))
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
    """Kaldi's table, in percent, of every test set and system; `unit` is "word" or "character"."""
    prefix = "" if unit == "word" else "character_"
    total, rate = ("words", "wer") if unit == "word" else ("characters", "cer")
    header = ["dataset", "Snt", "Wrd" if unit == "word" else "Chr", "Corr", "Sub", "Del", "Ins", "Err", "S.Err"]
    body = []
    for row in (row for group in _groups(rows) for row in group):
        sub, delete, insert = (100 * row[f"{prefix}{kind}"] / row[total] for kind in ("sub", "del", "ins"))
        percents = [100 - sub - delete, sub, delete, insert, row[rate]]
        percents.append(100 * row["utterances_wrong"] / row["utterances"])
        seed = f" seed {row['seed']}" if "seed" in row else ""
        name = f"{row['test_set']} {_system(row)}{seed}"
        body.append([name, str(row["utterances"]), str(row[total]), *(f"{value:.1f}" for value in percents)])
    return markdown_table(header, body)


def environment_table(rows: Sequence[Row]) -> str:
    """A list of what the figures were made with: every version that occurs."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.get("environment", {}).items():
            found.setdefault(name, set()).add(value)
    return "\n".join(f"- {name}: {', '.join(sorted(values))}" for name, values in found.items())


def report(rows: Sequence[Row]) -> str:
    """Everything that a README shows of a results file, in Markdown."""
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
        SigmelError: the markers are missing.
    """
    before, after = check_markers(path)
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}", encoding="utf-8")


def check_markers(path: Path) -> tuple[str, str]:
    """What stands before and after the results in a README.

    Raises:
        SigmelError: the markers are missing.
    """
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SigmelError(f"{path}: has no lines {BEGIN} and {END} to put the results between")
    return before, after


def _millions(count: float) -> str:
    return f"{count / 1e6:.2f}M"


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown: the first column aligned to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
