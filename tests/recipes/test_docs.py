"""The figures in docs are those that the benchmarks wrote."""

import json
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_sigmoid_attention_is_what_the_benchmark_wrote():
    shown = [line for line in (DOCS / "sigmoid_attention.md").read_text().splitlines() if line.startswith("| ")]
    rows = json.loads((DOCS / "results/sigmoid_attention.json").read_text())["rows"]
    assert rows
    for row in rows:
        cells = (row["case"], row["metric"], row["ours"], row["peer"], row["theirs"], f"{row['better']:.2f}")
        assert f"| {' | '.join(map(str, cells))} |" in shown
