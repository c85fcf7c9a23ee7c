"""Comparison of systems that were trained with several seeds, on the same test sets.

Differences come with the paired bootstrap of Bisani and Ney (ICASSP 2004) over utterances, extended to seeds: the
seeds of each system are drawn anew, too, since the question is what a second training would give. Of a system with one
seed, only utterances are drawn.
"""

from __future__ import annotations

import csv
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmel.errors import SigmelError
from sigmel.features.plots import load_pyplot
from sigmel.scoring.error_rates import read_utterances
from sigmel.scoring.results import environment, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AVERAGE = "out of domain"  # the mean of the error rates of all sets but those in domain
REPLICATIONS = 10000
BLOCK = 100  # replications drawn at a time, which bounds the memory
LOSS_STEPS = 100  # the training loss is the mean over this many last steps


@dataclass(frozen=True)
class System:
    """One kind of model, trained with several seeds.

    Attributes:
        name: what tables call it.
        errors: by test set, (S, U) word errors of the S seeds in each of U utterances.
        words: by test set, (U,) words of the references.
        ids: by test set, the ids of the utterances.
        train_loss: of each seed, at the end, without the losses of routers.
        facts: `train.json` of the first seed.
        routing: `routing.json` of the first seed, if `sigmel routing` has made one.
    """

    name: str
    errors: dict[str, np.ndarray]
    words: dict[str, np.ndarray]
    ids: dict[str, list[str]]
    train_loss: list[float]
    facts: dict[str, Any]
    routing: dict[str, Any] | None

    @property
    def num_seeds(self) -> int:
        """S, the number of seeds."""
        return len(self.train_loss)

    def wer(self, sets: Sequence[str]) -> np.ndarray:
        """(S,) word error rate of each seed in percent; the mean over the sets."""
        return np.mean([100 * self.errors[name].sum(1) / self.words[name].sum() for name in sets], axis=0)


def read_system(name: str, folders: Sequence[Path]) -> System:
    """Read what a recipe left in the folders of a system, one a seed.

    Raises:
        SigmelError: a folder is incomplete, a file cannot be read, or the seeds were tested on different utterances.
    """
    errors: dict[str, list[list[int]]] = {}
    words: dict[str, list[int]] = {}
    ids: dict[str, list[str]] = {}
    losses = []
    for folder in folders:
        scored = sorted((folder / "score").glob("*/per_utt.jsonl"))
        if not scored or not (folder / "train.json").exists():
            raise SigmelError(f"{folder}: has no train.json or nothing in score/; train and score it first")
        for path in scored:
            rows, test_set = read_utterances(path), path.parent.name
            found = [row["id"] for row in rows]
            if ids.setdefault(test_set, found) != found:
                raise SigmelError(f"{path}: other utterances than those of {folders[0]}; score the same set")
            words[test_set] = [row["words"] for row in rows]
            errors.setdefault(test_set, []).append([row["sub"] + row["del"] + row["ins"] for row in rows])
        losses.append(final_loss(folder / "metrics.csv"))
    if incomplete := [test_set for test_set, seeds in errors.items() if len(seeds) != len(folders)]:
        raise SigmelError(f"{name}: not every seed has the set {incomplete[0]}")
    report = folders[0] / "routing" / "routing.json"
    return System(
        name,
        {test_set: np.array(seeds) for test_set, seeds in errors.items()},
        {test_set: np.array(counts) for test_set, counts in words.items()},
        ids,
        losses,
        json.loads((folders[0] / "train.json").read_text()),
        json.loads(report.read_text()) if report.exists() else None,
    )


def final_loss(metrics: Path) -> float:
    """The mean training loss of the last `LOSS_STEPS` steps in a `metrics.csv`, without the losses of routers."""
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train_loss"]]
    last = int(rows[-1]["step"])
    losses = [(int(row["step"]), float(row["train_loss"]) - float(row["aux_loss"] or 0)) for row in rows]
    return statistics.fmean(loss for step, loss in losses if step > last - LOSS_STEPS)


def difference(rates: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """How much higher the error rate of a system is than the error rate of a baseline, in percent of the latter.

    Args:
        rates, baseline: see `replicate`.

    Returns:
        "change", the measured difference, below 0 if the system is better; "low" and "high", its 95 % interval; and
        "better", the share of replications in which the system had the lower error rate.
    """
    change = 100 * (rates / baseline - 1)
    low, high = np.quantile(change[1:], [0.025, 0.975])
    better = (rates < baseline)[1:].mean()
    return {"change": float(change[0]), "low": float(low), "high": float(high), "better": float(better)}


def replicate(systems: Sequence[System], sets: Sequence[str], seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Draw utterances and seeds anew, `REPLICATIONS` times.

    A replication has the same utterances for every system, and the same seeds of a system in every set; the seeds of
    different systems are drawn independently.

    Returns:
        system -> test set -> (1 + B,) error rates in percent: as measured, and in the B replications.
    """
    rng = np.random.default_rng(seed)
    seeds = {
        system.name: np.vstack([np.ones(system.num_seeds), _draw(rng, system.num_seeds, REPLICATIONS)])  # (1 + B, S)
        for system in systems
    }
    rates: dict[str, dict[str, np.ndarray]] = {system.name: {} for system in systems}
    for test_set in sets:
        words = systems[0].words[test_set]  # (U,)
        counts = np.concatenate([words[None], *(system.errors[test_set] for system in systems)]).T  # (U, 1 + all S)
        blocks = [_draw(rng, len(words), BLOCK) @ counts for _ in range(REPLICATIONS // BLOCK)]
        drawn = np.vstack([counts.sum(0), *blocks])
        of_words, *errors = np.split(drawn, np.cumsum([1, *(system.num_seeds for system in systems)])[:-1], 1)
        for system, found in zip(systems, errors, strict=True):
            mean = (found * seeds[system.name]).sum(1) / system.num_seeds
            rates[system.name][test_set] = 100 * mean / of_words[:, 0]
    return rates


def _draw(rng: np.random.Generator, count: int, times: int) -> np.ndarray:
    """(times, count) float: how often each of `count` things is drawn in `count` draws."""
    return rng.multinomial(count, np.full(count, 1 / count), size=times).astype(np.float64)


def compare(
    systems: Sequence[System], pairs: Sequence[tuple[str, str]], in_domain: str, step_time: dict[str, float]
) -> dict[str, Any]:
    """Everything that the tables show, ready for JSON.

    Args:
        systems: tested on the same utterances.
        pairs: (system, baseline) of each difference to compute.
        in_domain: the test set from the domains of training.
        step_time: by system, milliseconds of a training step.

    Raises:
        SigmelError: the systems were tested on different utterances, or a pair or set is unknown.
    """
    first = systems[0]
    for system in systems[1:]:
        if system.ids != first.ids:
            raise SigmelError(f"{system.name} and {first.name} were not tested on the same utterances")
    if in_domain not in first.ids:
        raise SigmelError(f"--in-domain: no set {in_domain}; there are {', '.join(first.ids)}")
    by_name = {system.name: system for system in systems}
    if strangers := [name for pair in pairs for name in pair if name not in by_name]:
        raise SigmelError(f"--pair: no system {strangers[0]}; there are {', '.join(by_name)}")
    outside = [name for name in first.ids if name != in_domain]
    sets = {in_domain: [in_domain], AVERAGE: outside} | {name: [name] for name in outside}
    found: dict[str, Any] = {"in_domain": in_domain, "sets": list(sets), "systems": [], "differences": []}
    for system in systems:
        row = {"system": system.name, "seeds": system.num_seeds, "train_loss": _spread(system.train_loss)}
        row |= {key: system.facts[key] for key in ("steps", "params_total", "params_active")}
        row["step_ms"] = step_time.get(system.name)
        row["wer"] = {name: _spread(system.wer(members).tolist()) for name, members in sets.items()}
        found["systems"].append(row | {"routing": routing_summary(system.routing)})
    replicated = replicate(systems, list(first.ids))
    for pair, (name, members) in itertools.product(pairs, sets.items()):
        rates = [np.mean([replicated[system][member] for member in members], axis=0) for system in pair]
        found["differences"].append({"system": pair[0], "baseline": pair[1], "set": name} | difference(*rates))
    return found | {"environment": environment()}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and the values themselves."""
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "values": list(values)}


def routing_summary(report: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the papers compare routers by, from a `routing.json`: means over layers, or over pairs of neighbours.

    A mean of nothing is None: a single expert layer has no neighbours, and independent routers share no experts.
    """
    if report is None:
        return None
    tables = report["tables"]
    neighbours = [row for row in tables["overlap"] if row["other"] == row["layer"] + 1]

    def mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
        values = [row[name] for row in rows if row[name] is not None]
        return statistics.fmean(values) if values else None

    conditions: dict[str, list[dict[str, Any]]] = {}
    for row in tables["robustness"]:
        name = row["disturbance"] + ("" if row["value"] is None else f" {row['value']:g}")
        conditions.setdefault(name, []).append(row)
    return {
        "relative_entropy": mean(tables["layers"], "relative_entropy"),
        "cramers_v": mean(neighbours, "cramers_v"),
        "jaccard": mean(neighbours, "jaccard"),
        "wer": {name: mean(rows, "wer") for name, rows in conditions.items()},
    }


def tables(found: dict[str, Any]) -> str:
    """The tables of a comparison, in Markdown."""
    made_with = ", ".join(f"{name} {value}" for name, value in found["environment"].items())
    parts = [_systems_table(found), _differences_table(found), _sets_table(found), _routing_table(found)]
    return "\n\n".join([part for part in parts if part] + [f"Environment: {made_with}."])


def _systems_table(found: dict[str, Any]) -> str:
    header = ["System", "Seeds", "Steps", "Params (active)", "Step, ms", "Train loss", "WER in domain"]
    header.append(f"WER {AVERAGE}")
    body = []
    for row in found["systems"]:
        parameters = f"{row['params_total'] / 1e6:.2f}M ({row['params_active'] / 1e6:.2f}M)"
        step = "" if row["step_ms"] is None else f"{row['step_ms']:.0f}"
        line = [row["system"], str(row["seeds"]), str(row["steps"]), parameters, step, _shown(row["train_loss"], 3)]
        body.append([*line, *(_shown(row["wer"][name], 2) for name in (found["in_domain"], AVERAGE))])
    return markdown_table(header, body)


def _shown(spread: dict[str, Any], digits: int) -> str:
    sd = "" if spread["sd"] is None else f" ± {spread['sd']:.{digits}f}"
    return f"{spread['mean']:.{digits}f}{sd}"


def _differences_table(found: dict[str, Any]) -> str:
    body: dict[str, list[str]] = {}
    for row in found["differences"]:
        if row["set"] in (found["in_domain"], AVERAGE):
            cells = [f"{row['change']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})", f"{100 * row['better']:.0f}"]
            body.setdefault(f"{row['system']} against {row['baseline']}", []).extend(cells)
    header = ["Relative difference, %", "WER in domain", "better", f"WER {AVERAGE}", "better"]
    return markdown_table(header, [[name, *cells] for name, cells in body.items()])


def _sets_table(found: dict[str, Any]) -> str:
    header = ["WER %, mean over seeds", *(row["system"] for row in found["systems"])]
    body = [
        [name, *(_shown(row["wer"][name], 1) for row in found["systems"])] for name in found["sets"] if name != AVERAGE
    ]
    return markdown_table(header, body)


def _routing_table(found: dict[str, Any]) -> str:
    routed = [row for row in found["systems"] if row["routing"]]
    if not routed:
        return ""
    tried = list(routed[0]["routing"]["wer"])
    header = ["Routers", "entropy, % of most", "neighbours, V", "neighbours, Jaccard"]
    header += [f"WER {name}" for name in tried]
    body = []
    for row in routed:
        about = row["routing"]
        measures = [(100, about["relative_entropy"], 0), (1, about["cramers_v"], 2), (1, about["jaccard"], 2)]
        measures += [(1, about["wer"].get(name), 1) for name in tried]
        cells = ["" if value is None else f"{scale * value:.{digits}f}" for scale, value, digits in measures]
        body.append([row["system"], *cells])
    return markdown_table(header, body)


def plot(found: dict[str, Any]) -> Figure:
    """Word error rates by test set: a dot for each seed, a line at the mean of each system."""
    pyplot = load_pyplot()
    systems, sets = found["systems"], found["sets"]
    figure, axes = pyplot.subplots(figsize=(1.4 * len(sets) + 2, 4.5), layout="constrained")
    for number, row in enumerate(systems):
        offset = 0.8 * ((number + 0.5) / len(systems) - 0.5)
        at = np.arange(len(sets)) + offset
        colour = f"C{number}"
        axes.hlines([row["wer"][name]["mean"] for name in sets], at - 0.05, at + 0.05, colour, label=row["system"])
        for x, name in zip(at, sets, strict=True):
            values = row["wer"][name]["values"]
            axes.plot([x] * len(values), values, ".", color=colour, alpha=0.6)
    axes.set_xticks(range(len(sets)), sets, rotation=30, ha="right")
    axes.set_ylabel("WER %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=2)
    return figure
