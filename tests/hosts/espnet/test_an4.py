"""The an4 recipe with ESPnet as its host, from a copy of the database to the table."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sigmel.files.manifest import read_manifest

ROOT = Path(__file__).parents[3]


def shipped() -> Path | None:
    """Some utterances of AN4 itself, which ESPnet has with its own recipe from 202611 on."""
    spec = importlib.util.find_spec("egs3")
    if spec is None:
        return None
    return Path(spec.submodule_search_locations[0]) / "mini_an4/esp2_asr/downloads.tar.gz"


@pytest.fixture(params=["tones", "speech"] if shipped() else ["tones"])
def database(request, an4, tmp_path):
    """A database laid out as AN4, and the utterances of each set it should give."""
    if request.param == "tones":
        return an4, {"train": 45, "dev": 10, "test": 10}
    with tarfile.open(shipped()) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "downloads/an4", {"train": 3, "dev": 2, "test": 2}


@pytest.mark.slow
def test_from_a_copy_to_the_table(database, tmp_path):
    folder, sizes = database
    made = {"data", "exp", "downloads"}
    egs = shutil.copytree(ROOT / "egs", tmp_path / "egs", ignore=lambda _, names: made & set(names))
    recipe = egs / "an4/asr1"
    options = ["--host", "espnet", "--size", "nano", "--python", sys.executable, "--an4_dir", str(folder)]
    done = subprocess.run([recipe / "run.sh", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (data,) = recipe.glob("data/speeds-1_an4-dir-*")
    assert {name: len(list(read_manifest(data / f"{name}.jsonl"))) for name in sizes} == sizes
    (exp,) = recipe.glob("exp/espnet_nano_omni_seed1_an4_dir-*")
    assert json.loads((exp / "train.json").read_text())["steps"] > 0
    decoded = [json.loads(line) for line in (exp / "decode/test.jsonl").read_text().splitlines()]
    assert [row["text"] for row in decoded] == [row.text for row in read_manifest(data / "test.jsonl")]
    (row,) = json.loads((exp / "results.json").read_text())
    assert (row["test_set"], row["host"], row["utterances"]) == ("test", "espnet", sizes["test"])
    assert "| test | espnet nano omni an4_dir=" in done.stdout
    assert (exp / "plots/training.png").exists()
