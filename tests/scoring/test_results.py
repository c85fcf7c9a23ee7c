"""Merging rows, the tables, and what stands in a README."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.scoring import results
from sigmel.scoring.results import (
    BEGIN,
    END,
    add_rows,
    environment,
    error_table,
    put_between,
    read_results,
    report,
    summary_table,
)


def make(test_set="test", routing="omni", seed=1, wer=10.0, **others):
    row = {
        "test_set": test_set,
        "host": "nemo",
        "size": "tiny",
        "routing": routing,
        "seed": seed,
        "wer": wer,
        "cer": 5.0,
    }
    row |= {"sub": 6, "del": 3, "ins": 1, "words": 100, "wer_low": wer - 1, "wer_high": wer + 1}
    row |= {"utterances": 20, "utterances_wrong": 5, "characters": 400, "character_sub": 10, "character_del": 8}
    row |= {"character_ins": 2, "params_total": 2e6, "params_active": 1e6, "training_seconds": 90.0, "rtfx": 80.0}
    return row | {"environment": {"torch": "2.13"}} | others


def test_a_row_replaces_that_of_the_same_set_and_system_only(tmp_path):
    path = tmp_path / "results.json"
    add_rows(path, [make(), make(seed=2), make(routing="dense"), make("test_ood")])
    add_rows(path, [make(wer=7.0)])
    rows = read_results(path)
    assert len(rows) == 4
    assert [row["wer"] for row in rows if (row["test_set"], row["routing"], row["seed"]) == ("test", "omni", 1)] == [
        7.0
    ]
    add_rows(path, reversed(rows))
    assert read_results(path) == rows  # the order does not depend on what came first


def test_rows_are_told_apart_by_every_tag(tmp_path):
    """Also by tags that nobody has thought of yet: only what is measured is left out."""
    path = tmp_path / "results.json"
    rows = [make(), make(speaker="theo"), make(speaker="jackson"), make(judge="tiny", speaker="theo")]
    for row in rows:
        add_rows(path, [row])
        add_rows(path, [row | {"wer": 7.0, "environment": {"torch": "2.14"}}])
    found = read_results(path)
    assert [row["wer"] for row in found] == [7.0] * 4
    lines = summary_table(found).splitlines()[2:]
    systems = [line.split("|")[2].strip() for line in lines]
    assert systems == ["nemo tiny omni", *(f"nemo tiny omni {tags}" for tags in (
        "speaker=jackson", "speaker=theo", "judge=tiny speaker=theo"))]  # fmt: skip


def test_publishing_merges_rows_and_puts_the_tables_into_the_readme(tmp_path, capsys):
    for name, rows in (("one", [make(), make(seed=2)]), ("two", [make(routing="dense")])):
        (tmp_path / name).mkdir()
        add_rows(tmp_path / name / "results.json", rows)
    files = [str(tmp_path / name / "results.json") for name in ("one", "two")]
    assert main(["results", *files]) == 0
    assert capsys.readouterr().out == summary_table([make(), make(seed=2), make(routing="dense")]) + "\n"
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "README.md").write_text("# Title\n")
    assert main(["results", *files, "--publish", str(recipe)]) == 2
    assert "README.md: has no lines" in capsys.readouterr().err
    assert not (recipe / "results.json").exists()
    (recipe / "README.md").write_text(f"# Title\n{BEGIN}\n{END}\n")
    add_rows(recipe / "results.json", [make(wer=90.0), make("test_ood")])
    assert main(["results", *files, "--publish", str(recipe)]) == 0
    rows = read_results(recipe / "results.json")
    assert sorted(row["wer"] for row in rows) == [10.0] * 4
    assert (recipe / "README.md").read_text() == f"# Title\n{BEGIN}\n{report(rows)}\n{END}\n"


def test_the_commit_is_that_of_sigmels_own_checkout(monkeypatch):
    assert "commit" in environment()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "commit" not in environment()
    monkeypatch.undo()
    monkeypatch.setattr(results, "__file__", str(Path(__file__).with_name("untracked.py")))
    assert "commit" not in environment()


def test_systems_scored_at_once_lose_no_row(tmp_path):
    path = tmp_path / "results.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: add_rows(path, [make(seed=seed)]), range(24)))
    assert {row["seed"] for row in read_results(path)} == set(range(24))


def test_the_summary_is_the_mean_over_seeds():
    table = summary_table([make(seed=seed, wer=wer) for seed, wer in enumerate([10.0, 11.0, 12.0])])
    (line,) = table.splitlines()[2:]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["test", "nemo tiny omni", "3", "11.00", "± 1.00 (sd)", "5.00", "2.00M (1.00M)", "1.5 min", "80"]


def test_leaving_one_speaker_out_is_also_averaged():
    rows = [make("test_official"), make("test_loso_anna", wer=4.0), make("test_loso_bert", wer=8.0)]
    lines = summary_table(rows).splitlines()
    assert len(lines) == 2 + 3 + 1
    assert "mean of 2" in lines[-1]
    assert "| 6.00 | 4.0–8.0 (range) |" in lines[-1]


def test_the_error_tables_are_kaldis():
    line = error_table([make()], "word").splitlines()[2]
    assert line == "| test nemo tiny omni seed 1 | 20 | 100 | 91.0 | 6.0 | 3.0 | 1.0 | 10.0 | 25.0 |"
    line = error_table([make()], "character").splitlines()[2]
    assert line == "| test nemo tiny omni seed 1 | 20 | 400 | 95.5 | 2.5 | 2.0 | 0.5 | 5.0 | 25.0 |"


def test_a_readme_gets_the_tables_between_its_markers(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    for _ in range(2):  # again changes nothing
        put_between(path, report([make()]))
        assert path.read_text() == f"# Title\n\n{BEGIN}\n{report([make()])}\n{END}\n\nafter\n"
    path.write_text("# Title\n")
    with pytest.raises(SigmelError, match=r"README\.md: has no lines"):
        put_between(path, report([make()]))


@pytest.mark.parametrize(
    ("text", "message"), [("[", "not JSON"), ("{}", "not a list"), (json.dumps([{"wer": 1}]), "row 1 lacks test_set")]
)
def test_what_is_no_results_file_is_named(tmp_path, text, message):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(SigmelError, match=message):
        read_results(path)
    with pytest.raises(SigmelError, match="no such file"):
        read_results(tmp_path / "absent.json")


def test_a_row_that_is_given_twice_counts_once(tmp_path, capsys):
    row = {"test_set": "test", "host": "nemo", "seed": 1, "wer": 2.0, "cer": 1.0, "words": 100}
    row |= {"wer_low": 1.0, "wer_high": 3.0}
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
    assert main(["results", str(tmp_path / "a.json")]) == 0
    once = capsys.readouterr().out
    assert main(["results", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert capsys.readouterr().out == once
