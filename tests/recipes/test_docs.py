"""The figures in docs are those that the benchmarks wrote."""

import json
from pathlib import Path
from statistics import fmean

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_the_bias_is_what_the_benchmark_wrote():
    text = (DOCS / "sigmoid_attention.md").read_text()
    curves = json.loads((DOCS / "results/attention_bias.json").read_text())["curves"]
    assert len(curves) == 4
    for name, curve in curves.items():
        assert f"| {name} | {curve['attention norm'][0]:.2f} | {fmean(curve['loss'][-100:]):.2f} |" in text


@pytest.mark.parametrize(
    "path", sorted((DOCS / "results/sigmoid_attention").glob("*.json")), ids=lambda path: path.stem
)
def test_the_tables_of_sigmoid_attention_are_what_the_benchmark_wrote(path):
    shown = [line for line in (DOCS / "sigmoid_attention.md").read_text().splitlines() if line.startswith("| ")]
    measured = json.loads(path.read_text())
    assert measured["rows"]
    assert measured["machine"]["cpu"] in (DOCS / "sigmoid_attention.md").read_text()
    for row in measured["rows"]:
        cells = (row["case"], row["metric"], row["ours"], row["peer"], row["theirs"], f"{row['better']:.2f}")
        assert f"| {' | '.join(map(str, cells))} |" in shown
