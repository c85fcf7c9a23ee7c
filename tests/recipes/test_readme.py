"""The figures in a recipe's README are those the recipe made."""

from pathlib import Path

import pytest

from sigmel.analysis.results import BEGIN, END, read_results, report

RECIPES = sorted((Path(__file__).parents[2] / "egs").glob("*/*/run.sh"))


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.parent.parent.name)
def test_the_readme_shows_results_json(script):
    shown = (script.parent / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    results = script.parent / "results.json"
    assert shown.strip() == (report(read_results(results)) if results.exists() else "")
