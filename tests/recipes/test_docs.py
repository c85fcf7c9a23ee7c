"""The figures in docs are those that the benchmarks wrote."""

import json
from pathlib import Path
from statistics import fmean

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "dmel": "dmel.md",
    "expert_mlp": "experts.md",
    "fsa": "fsa.md",
    "sigmoid_attention": "sigmoid_attention.md",
}
MEASURED = sorted((DOCS / "results").glob("*/*.json"))


def test_the_table_of_the_bias_is_what_the_benchmark_wrote():
    text = (DOCS / "sigmoid_attention.md").read_text()
    curves = json.loads((DOCS / "results/attention_bias.json").read_text())["curves"]
    assert len(curves) == 4
    for name, curve in curves.items():
        assert f"| {name} | {curve['attention norm'][0]:.2f} | {fmean(curve['loss'][-100:]):.2f} |" in text


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_tables_of_an_op_are_what_its_benchmark_wrote(path):
    text = (DOCS / PAGES[path.parent.name]).read_text()
    measured = json.loads(path.read_text())
    assert measured["rows"]
    assert measured["machine"]["cpu"] in text
    for row in measured["rows"]:
        cells = (row["case"], row["metric"], row["ours"], row["peer"], row["theirs"], f"{row['better']:.2f}")
        assert f"| {' | '.join(map(str, cells))} |" in text.splitlines()


@pytest.mark.parametrize("measured", ["dmel_sound.json", "dmel_sound_fsdd.json"])
def test_the_tables_of_sounds_are_what_the_benchmark_wrote(measured):
    lines = (DOCS / "dmel.md").read_text().splitlines()
    rows = json.loads((DOCS / "results" / measured).read_text())["rows"]
    figures = [name for name in ("MCD, dB", "PESQ", "STOI", "WER, %") if any(row[name] for row in rows)]
    forms: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        forms.setdefault((row["form"], row["hop, ms"]), []).extend(row[name] for name in figures)
    assert len(forms) >= 9
    for form, numbers in forms.items():
        assert f"| {' | '.join([*form, *numbers])} |" in lines
