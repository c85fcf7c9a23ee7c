"""Comparing systems: what is read, the paired bootstrap, the tables."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.scoring import comparison
from sigmel.scoring.comparison import AVERAGE, System, compare, final_loss, read_system, tables

FACTS = {"steps": 200, "params_total": 2000000, "params_active": 1000000}


def make(name, seeds=3, shift=0.0, sets=("test", "ood_a", "ood_b"), utterances=200):
    """A system that makes 20 % errors, and `shift` more."""
    rng = np.random.default_rng(len(name) + seeds)
    words = {test_set: np.full(utterances, 5) for test_set in sets}
    errors = {test_set: rng.binomial(5, 0.2 + shift, size=(seeds, utterances)) for test_set in sets}
    ids = {test_set: [f"{test_set}-{n}" for n in range(utterances)] for test_set in sets}
    return System(name, errors, words, ids, [1.0] * seeds, FACTS, None)


def difference(system, baseline, sets):
    """On the mean over the sets out of domain, or on the one in it."""
    found = compare([system, baseline], [(system.name, baseline.name)], "test", {})["differences"]
    return next(
        SimpleNamespace(**{k: row[k] for k in ("change", "low", "high", "better")})
        for row in found
        if row["set"] == sets
    )


def write(folder, system, seed, sets=("test", "ood_a")):
    """What a recipe leaves of a training."""
    for test_set in sets:
        score = folder / "score" / test_set
        score.mkdir(parents=True)
        rows = zip(
            system.ids[test_set], system.words[test_set].tolist(), system.errors[test_set][seed].tolist(), strict=True
        )
        lines = [json.dumps({"id": i, "words": w, "sub": e, "del": 0, "ins": 0}) + "\n" for i, w, e in rows]
        (score / "per_utt.jsonl").write_text("".join(lines))
    (folder / "train.json").write_text(json.dumps(FACTS))
    (folder / "metrics.csv").write_text("step,train_loss,aux_loss\n20,9.0,0\n100,3.0,0\n160,,\n200,1.0,\n")
    return folder


@pytest.fixture
def experiments(tmp_path):
    made = {}
    for name, shift in (("dense", 0.2), ("omni", 0.0)):
        system = make(name, seeds=2, shift=shift)
        made[name] = [str(write(tmp_path / f"{name}{seed}", system, seed)) for seed in range(2)]
    return made


def test_what_is_read_is_what_was_scored(tmp_path):
    system = make("omni", seeds=2)
    read = read_system("omni", [write(tmp_path / str(seed), system, seed) for seed in range(2)])
    for test_set in ("test", "ood_a"):
        assert np.array_equal(read.errors[test_set], system.errors[test_set])
    rates = [100 * system.errors["test"][seed].sum() / 1000 for seed in range(2)]
    assert read.wer(["test"]).tolist() == pytest.approx(rates)
    assert read.train_loss == [1.0, 1.0]


def test_the_final_loss_is_of_the_last_hundred_steps_without_the_routers(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,train_loss,aux_loss\n100,9.0,0\n120,2.0,0.5\n180,,\n200,4.0,0.25\n")
    assert final_loss(path) == 2.625


def test_a_system_that_is_better_is_said_to_be():
    found = difference(make("omni"), make("dense", shift=0.1), "test")
    assert found.low < found.change < found.high < 0
    assert found.better > 0.99
    back = difference(make("dense", shift=0.1), make("omni"), "test")
    assert back.low > 0
    assert back.better < 0.01


@settings(max_examples=20, deadline=None)
@given(seeds=st.integers(1, 5), shift=st.floats(0.0, 0.5))
def test_a_system_does_not_differ_from_itself(seeds, shift):
    system = make("same", seeds=seeds, shift=shift)
    found = difference(system, replace(system, name="again"), AVERAGE)
    assert found.change == 0
    if seeds == 1:  # the same utterances, the same errors
        assert found.low == found.high == 0
    else:
        assert found.low <= 0 <= found.high


def test_interval_of_one_seed_is_bisani_and_neys():
    """Over utterances alone, against a plain loop."""
    one, other = make("a", seeds=1), make("bb", seeds=1, shift=0.05)
    rng = np.random.default_rng(1)
    changes = []
    for _ in range(4000):
        drawn = rng.integers(200, size=200)
        changes.append(100 * (one.errors["test"][0, drawn].sum() / other.errors["test"][0, drawn].sum() - 1))
    found = difference(one, other, "test")
    assert [found.low, found.high] == pytest.approx(np.quantile(changes, [0.025, 0.975]).tolist(), abs=1.5)


def test_seeds_that_differ_widen_the_interval():
    calm, wild = make("calm", seeds=4), make("calm", seeds=4)
    wild.errors["test"] += np.array([0, 1, 0, 1])[:, None]
    wild.errors["test"] -= np.array([0, 0, 1, 0])[:, None] * (wild.errors["test"] > 0)
    other = make("other", seeds=4)
    narrow, wide = (difference(system, other, "test") for system in (calm, wild))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_command_makes_tables_and_a_plot(experiments, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results -->\n<!-- end of results -->\n")
    step_time = tmp_path / "step_time.json"
    step_time.write_text('{"dense": 80.0}')
    report = {
        "layers": [{"relative_entropy": 0.5}, {"relative_entropy": 0.7}],
        "overlap": [{"layer": 1, "other": 2, "cramers_v": 0.4, "jaccard": 0.25}],
        "robustness": [
            {"disturbance": "none", "value": None, "wer": 20.0},
            {"disturbance": "shuffle", "value": None, "wer": 30.0},
            {"disturbance": "shuffle", "value": None, "wer": 50.0},
            {"disturbance": "paths", "value": 10, "wer": 21.0},
        ],
    }
    routing = tmp_path / "omni0/routing"
    routing.mkdir()
    (routing / "routing.json").write_text(json.dumps({"tables": report}))
    options = ["--output", str(tmp_path / "out"), "--publish", str(tmp_path), "--step-time", str(step_time)]
    for name, folders in experiments.items():
        options += ["--system", name, *folders]
    assert main(["compare", *options]) == 0
    text = readme.read_text()
    assert "| dense | 2 | 200 | 2.00M (1.00M) | 80 | 1.000 ± 0.000 |" in text
    assert "| omni against dense | -" in text
    assert "| omni | 60 | 0.40 | 0.25 | 20.0 | 40.0 | 21.0 |" in text
    found = json.loads((tmp_path / "out/comparison.json").read_text())
    assert tables(found) in text
    assert [row["set"] for row in found["differences"]] == ["test", AVERAGE, "ood_a"]
    assert all(row["high"] < 0 for row in found["differences"])
    assert (tmp_path / "out/wer.png").stat().st_size
    assert json.loads((tmp_path / "comparison/comparison.json").read_text()) == found
    assert main(["compare", *options]) == 0  # again, in place of the first


def test_a_router_without_neighbours_is_summarised():
    report = {"layers": [{"relative_entropy": 0.5}], "overlap": [], "robustness": []}
    summary = comparison.routing_summary({"tables": report})
    assert summary == {"relative_entropy": 0.5, "cramers_v": None, "jaccard": None, "wer": {}}
    found = compare([make("dense"), replace(make("omni"), routing={"tables": report})], [], "test", {})
    assert "| omni | 50 |  |  |" in tables(found)


def test_utterances_are_drawn_in_blocks_as_at_once(monkeypatch):
    systems = [make("dense", seeds=2), make("omni")]
    in_blocks = comparison.replicate(systems, ["test", "ood_a"])
    monkeypatch.setattr(comparison, "BLOCK", comparison.REPLICATIONS)
    at_once = comparison.replicate(systems, ["test", "ood_a"])
    for system in systems:
        for test_set, rates in in_blocks[system.name].items():
            np.testing.assert_array_equal(rates, at_once[system.name][test_set])


def test_what_cannot_be_compared_is_named(experiments, tmp_path, capsys):
    def refused(*options):
        given = [str(option) for option in options]
        assert main(["compare", "--output", str(tmp_path / "out"), *given]) == 2
        return capsys.readouterr().err

    dense = ["--system", "dense", *experiments["dense"]]
    assert "names no experiment" in refused("--system", "dense")
    assert "train and score it first" in refused("--system", "dense", tmp_path / "nowhere")
    assert "--pair: no system switch; there are dense" in refused(*dense, "--pair", "dense", "switch")
    assert "--in-domain: no set dev; there are ood_a, test" in refused(*dense, "--in-domain", "dev")
    other = write(tmp_path / "short", make("omni", utterances=7), 0)
    assert "not tested on the same utterances" in refused(*dense, "--system", "omni", other)
    assert "other utterances than those of" in refused("--system", "omni", experiments["omni"][0], other)
    assert not (tmp_path / "out").exists()


def test_a_seed_without_a_set_is_an_error(tmp_path):
    system = make("omni", seeds=2)
    folders = [write(tmp_path / "a", system, 0), write(tmp_path / "b", system, 1, sets=("test",))]
    with pytest.raises(SigmelError, match="omni: not every seed has the set ood_a"):
        read_system("omni", folders)


def test_the_pairs_asked_for_are_compared():
    systems = [make(name) for name in ("dense", "switch", "omni")]
    pairs = [("omni", "dense"), ("omni", "switch")]
    found = compare(systems, pairs, "test", {})
    assert {(row["system"], row["baseline"]) for row in found["differences"]} == set(pairs)
    assert comparison.tables(found).count(" against ") == 2
