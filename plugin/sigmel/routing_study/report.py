"""The report of `sigmel routing`: a folder of tables and plots, and a page that holds them together."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigmel.features.plots import load_pyplot
from sigmel.files.manifest import write_rows
from sigmel.routing_study.recogniser import Row
from sigmel.routing_study.statistics import Table
from sigmel.scoring.results import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 20  # rows of a long table on the page


def write_report(
    folder: Path,
    title: str,
    summary: dict[str, Any],
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure],
    skipped: Sequence[Row],
) -> None:
    """Write a report.

    Args:
        folder: an empty folder.
        title: title of the page.
        summary: figures of the whole set, ready for JSON.
        tables: rows of each table; None is empty in the CSV files, and a list has its values side by side.
        figures: plots; one with the name of a table stands above that table on the page.
        skipped: rows of the manifest that were left out.
    """
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
        load_pyplot().close(figure)
    for name, table in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([list(table[0])] if table else [])
            writer.writerows([[_text(value) for value in row.values()] for row in table])
    write_rows(folder / "skipped.jsonl", skipped)
    everything = {"summary": summary, "tables": tables, "environment": environment()}
    (folder / "routing.json").write_text(json.dumps(everything, ensure_ascii=False, indent=1), encoding="utf-8")
    (folder / "index.html").write_text(page(title, summary, tables, list(figures)), encoding="utf-8")


def page(title: str, summary: Mapping[str, Any], tables: Mapping[str, Table], figures: Sequence[str]) -> str:
    """The page of a report as HTML; the images and the CSV files lie beside it."""
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
        if table := tables.get(name):
            parts.append(_html_table(table[:SHOWN]))
            more = f", with {len(table) - SHOWN} more rows" if len(table) > SHOWN else ""
            parts.append(f'<p><a href="{name}.csv">{name}.csv</a>{more}</p>')
    return "\n".join([*parts, "</body></html>", ""])


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    head = row([key.replace("_", " ") for key in table[0]], "th")
    body = [row([_text(value, ".4g") for value in values.values()], "td") for values in table]
    return "\n".join(["<table>", head, *body, "</table>"])


def _text(value: Any, precision: str = "") -> str:
    """What a cell of a table shows: nothing for None, and the values of a list side by side."""
    values = value if isinstance(value, list) else [value]
    return " ".join(format(v, precision) if isinstance(v, float) else "" if v is None else str(v) for v in values)
