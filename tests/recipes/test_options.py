"""Options of recipes: each decides a folder and a row of results of its own. Nothing is trained; see stub.py."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EGS = Path(__file__).parents[2] / "egs"
RECIPES = [str(path.parent.relative_to(EGS)) for path in sorted(EGS.glob("*/*/run.sh")) if "Usage" in path.read_text()]
NOT_KEYED = {"stage", "stop_stage", "python", "print"}  # decide nothing of what is made
OTHER_VALUE = {  # than the default
    "attention": "sigmoid", "host": "espnet", "routing": "switch", "seed": "2", "size": "nano", "task": "tts",
    "speaker": "theo", "test_speaker": "bob", "judge": "tiny", "recogniser": "judge.nemo", "start": "dense.nemo",
    "an4_dir": "copy", "fsdd_dir": "copy", "ljspeech_dir": "copy",
}  # fmt: skip
NEEDED = {"judge": ["--task", "tts"], "recogniser": ["--task", "tts"], "speaker": ["--task", "tts"]}


def options_of(recipe):
    """What the manual of a recipe names, except the host where there is only one."""
    manual = subprocess.check_output([EGS / recipe / "run.sh", "--help"], text=True)
    only_one = set() if (EGS / recipe / "conf/espnet").is_dir() else {"host"}
    return sorted(set(re.findall(r"--([a-z_\d]+)", manual)) - NOT_KEYED - only_one)


@pytest.fixture(scope="module")
def egs(tmp_path_factory):
    """A checkout of the recipes, without what they have made, in a folder with a space."""
    root = tmp_path_factory.mktemp("my work") / "a checkout"
    made = {"data", "exp", "downloads"}
    shutil.copytree(EGS, root / "egs", ignore=lambda _, names: made & set(names))
    shutil.copy(EGS.parent / ".gitignore", root)
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root / "egs"


@pytest.fixture(scope="module")
def run(egs, tmp_path_factory):
    """Function that runs a recipe from nothing with a stub for Python, and returns the commands of its stages."""
    folder = tmp_path_factory.mktemp("stub of python")
    (folder / "python").write_text(f"#!{sys.executable} -SE\n" + Path(__file__).with_name("stub.py").read_text())
    (folder / "python").chmod(0o755)

    def go(script, *options):
        log = folder / "log"
        log.unlink(missing_ok=True)
        for made in [*egs.glob("*/*/data"), *egs.glob("*/*/exp")]:
            shutil.rmtree(made)
        command = [str(egs / script), "--python", str(folder / "python"), *options]
        environment = os.environ | {"STUB_LOG": str(log), "REAL_PYTHON": sys.executable}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in log.read_text().splitlines()]

    return go


def scored(commands):
    """Folder and key of what the recipe itself, not that of its judge, has scored."""
    found = [command["arguments"] for command in commands if command["arguments"][2] == "score"]
    (arguments,) = (arguments for arguments in found if not any(a.startswith("graph=") for a in arguments))
    output = arguments[arguments.index("--output") + 1]
    return output, sorted(arguments[arguments.index("--tag") + 1 :])


def outputs(commands):
    """Everything that is made, by path, and the command that makes it."""
    made = {}
    for command in commands:
        arguments = command["arguments"]
        if "--output" in arguments:
            path = os.path.normpath(Path(command["folder"], arguments[arguments.index("--output") + 1]))
            made[path] = arguments
    return made


@pytest.mark.parametrize(("recipe", "option"), [(recipe, name) for recipe in RECIPES for name in options_of(recipe)])
def test_two_values_of_an_option_never_share_a_folder_or_a_row(run, recipe, option):
    needed = [*NEEDED.get(option, []), "--stop_stage", "5"]
    default = run(f"{recipe}/run.sh", *needed)
    other = run(f"{recipe}/run.sh", *needed, f"--{option}", OTHER_VALUE[option])
    (folder, key), (other_folder, other_key) = scored(default), scored(other)
    assert folder != other_folder
    assert key != other_key
    # Where both make something under one name, they make it in one way.
    first, second = outputs(default), outputs(other)
    for path in first.keys() & second.keys():
        assert first[path] == second[path]


def test_a_judge_decides_what_is_heard_and_not_what_is_trained(run):
    for recipe, option, value in (("espeak_commands", "--judge", "tiny"), ("ljspeech", "--recogniser", "judge.nemo")):
        default, other = (
            outputs(run(f"{recipe}/rich1/run.sh", "--task", "tts", "--stop_stage", "5", *options))
            for options in ([], [option, value])
        )
        assert [path for path in default if path.endswith("exp/nemo_tts_dense_seed1")]
        assert [path for path in other if path.endswith("exp/nemo_tts_dense_seed1")]
        assert not [path for path in default.keys() & other.keys() if "decode" in path or "score" in path]


def test_a_copy_of_a_corpus_is_named_and_not_where_it_lies(run, tmp_path):
    """The data and the experiment are those of the folder, however the option spells it."""
    corpus = tmp_path / "my corpus"
    corpus.mkdir()
    spellings = (str(corpus), f"{corpus}/", f"{tmp_path}/../{tmp_path.name}/my corpus")
    made = [run("fsdd/asr1/run.sh", "--fsdd_dir", spelling, "--stop_stage", "5") for spelling in spellings]
    assert made[0] == made[1] == made[2]
    folder, _ = scored(made[0])
    assert re.fullmatch(r"exp/nemo_tiny_omni_seed1_fsdd_dir-my_corpus-\d+/score", folder)


def test_every_speaker_is_left_out_in_turn(run):
    commands = run("fsdd/asr1/run.sh", "--test_speaker", "all", "--stop_stage", "1")
    data = [command["arguments"] for command in commands if command["arguments"][0] == "local/data.py"]
    assert [arguments[arguments.index("--test-speaker") + 1] for arguments in data] == ["ann", "bob"]


def test_print_makes_nothing(egs):
    recipe = egs / "fsdd/asr1"
    before = sorted(recipe.rglob("*"))
    for what, path in (("exp", "exp/nemo_tiny_path2_seed1"), ("model", "exp/nemo_tiny_path2_seed1/model.nemo")):
        command = [recipe / "run.sh", "--routing", "path:2", "--print", what]
        assert subprocess.check_output(command, text=True) == f"{recipe / path}\n"
    assert sorted(recipe.rglob("*")) == before


@pytest.mark.parametrize(
    ("recipe", "options"),
    [(recipe, []) for recipe in RECIPES]
    + [(recipe, ["--task", "tts"]) for recipe in RECIPES if "task" in options_of(recipe)],
)
def test_a_run_touches_no_tracked_file(egs, run, recipe, options):
    run(f"{recipe}/run.sh", *options)
    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=egs, text=True)


def test_the_comparison_runs_every_system_and_reads_what_each_made(egs, run):
    recipe = egs / "espeak_multidomain/asr1"
    commands = run("espeak_multidomain/asr1/compare.sh", "--seeds", "2", "--jobs", "1")
    asked = [command["arguments"] for command in commands]
    assert len([arguments for arguments in asked if "train" in arguments]) == 26
    assert len([arguments for arguments in asked if "upcycle" in arguments]) == 6
    comparison = (recipe / "exp/comparison_tiny/comparison.md").read_text()
    assert "| dense to omni | 2 | 4 |" in comparison
    assert "| narrow to omni | 4 | 4 |" in comparison
    assert (recipe / "exp/comparison_tiny/wer.png").exists()
    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=egs, text=True)


def test_a_comparison_is_published_when_it_is_complete(egs, run):
    recipe = egs / "espeak_multidomain/asr1"
    run("espeak_multidomain/asr1/compare.sh", "--size", "quick", "--publish", "yes")
    assert (recipe / "comparison/comparison.md").read_text().strip() in (recipe / "README.md").read_text()
    subprocess.run(["git", "checkout", "-q", "."], cwd=egs, check=True)
