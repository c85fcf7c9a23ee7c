"""The figures in a recipe's README are those the recipe made."""

import json
from pathlib import Path

import pytest

from sigmel.scoring.comparison import tables
from sigmel.scoring.results import BEGIN, END, read_results, report

RECIPES = sorted((Path(__file__).parents[2] / "egs").glob("*/*/run.sh"))


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_the_readme_shows_what_the_recipe_has_made(script):
    shown = (script.parent / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    results, comparison = script.parent / "results.json", script.parent / "comparison/comparison.json"
    expected = ""
    if results.exists():
        expected = report(read_results(results))
    elif comparison.exists():
        expected = tables(json.loads(comparison.read_text()))
    assert shown.strip() == expected
