"""Stands in for Python in a recipe: writes down what it is asked to do, and makes the files that stages wait for."""

import json
import os
import sys
from pathlib import Path

arguments = sys.argv[1:]
verb = arguments[2] if arguments[:2] == ["-m", "sigmel.cli"] else Path(arguments[0]).name


def value(option):
    return Path(arguments[arguments.index(option) + 1])


if verb == "compare":
    os.execv(os.environ["REAL_PYTHON"], [os.environ["REAL_PYTHON"], *arguments])
if arguments[0] == "-c":  # whether sigmel is there
    sys.exit()
if "--list-speakers" in arguments:
    print("ann\nbob")
    sys.exit()
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps({"folder": os.getcwd(), "arguments": arguments}) + "\n")
if "--output" in arguments:
    output = value("--output")
    if output.suffix in {".npz", ".arpa", ".jsgf", ".nemo", ".json"}:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("{}")
    else:
        output.mkdir(parents=True, exist_ok=True)
if "--manifest" in arguments and verb == "dmel":
    value("--manifest").touch()
if verb == "train":
    (output / ("model.nemo" if "nemo" in arguments else "model.zip")).touch()
    (output / "train.json").write_text('{"steps": 4, "params_total": 2, "params_active": 1}')
    (output / "metrics.csv").write_text("step,train_loss,aux_loss\n4,1.0,0\n")
if verb == "score":
    for test_set in ("test", "ood_fast"):
        (output / test_set).mkdir()
        row = {"id": "a", "words": 4, "sub": 1, "del": 0, "ins": 0}
        (output / test_set / "per_utt.jsonl").write_text(json.dumps(row) + "\n")
if verb == "routing":
    tables = {"layers": [{"relative_entropy": 1.0}], "robustness": []}
    tables["overlap"] = [{"layer": 1, "other": 2, "cramers_v": 0.5, "jaccard": None}]
    (output / "routing.json").write_text(json.dumps({"tables": tables}))
