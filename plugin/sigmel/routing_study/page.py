"""Tables and plots on one page, and tables as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

SHOWN = 20  # rows of a long table on the page
Table = list[dict[str, Any]]


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
