"""The espeak_multidomain recipe: its data, and how the comparison is put together."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_manifest
from sigmel.recipes.corpora import commands
from sigmel.recipes.corpora.espeak import SILENCE

RECIPE = Path(__file__).parents[2] / "egs" / "espeak_multidomain" / "asr1"
MADE = {"data", "exp", "downloads", "comparison"}
SIZES = ("--train", 40, "--dev", 10, "--test", 10)


@pytest.fixture(scope="module")
def data(load_stage):
    return load_stage("espeak_multidomain/asr1")


@pytest.fixture(scope="module")
def digits(make_digits):
    return make_digits({"jackson": 1.0, "nicolas": 0.8, "ann": 1.2})


def stage(data, *options):
    return data.exit_status(lambda: data.main([str(option) for option in options]))


@pytest.fixture(scope="module")
def made(data, digits, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "tiny"
    assert stage(data, "--fsdd-dir", digits, "--output", output, *SIZES, "--workers", 1) == 0
    return output


def rows(folder, name):
    return list(read_manifest(folder / f"{name}.jsonl"))


def test_every_domain_has_its_share(data, made):
    for name, each in (("train", 8), ("dev", 2), ("test", 2)):
        found = [row.extra["domain"] for row in rows(made, name)]
        assert {domain: found.count(domain) for domain in found} == dict.fromkeys([*data.DOMAINS, "digits"], each)
    for name in data.UNSEEN:
        assert len(rows(made, name)) == 10


def test_tests_share_nothing_with_training(data, made):
    sets = {name: rows(made, name) for name in ("train", "dev", "test", *data.UNSEEN)}
    spoken = {name: [row for row in found if row.extra["domain"] != "digits"] for name, found in sets.items()}
    texts = [row.text for name, found in spoken.items() if name != "train" for row in found]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {row.text for row in spoken["train"]}
    variants = {name: {row.speaker.split("+")[1] for row in found} for name, found in spoken.items()}
    assert not variants["train"] & set(commands.speakers("test"))
    for name in ("test", *data.UNSEEN):
        assert variants[name] <= set(commands.speakers("test"))
    for name in sets:
        assert not {"jackson", "nicolas"} & {row.speaker for row in sets[name]}


def test_each_set_out_of_domain_differs_in_one_thing(data, made):
    def accents(name):
        return {row.speaker.split("+")[0] for row in rows(made, name)}

    home = set(data.DOMAINS["home"].accents)
    assert accents("ood_accent") <= set(data.UNSEEN_ACCENTS)
    for name in set(data.UNSEEN) - {"ood_accent"}:
        assert accents(name) <= home

    def pace(name):
        return np.mean([len(row.text) / row.duration for row in rows(made, name)])

    assert pace("ood_fast") > 1.2 * max(pace(name) for name in set(data.UNSEEN) - {"ood_fast"})
    for change, domain in data.UNSEEN.items():
        same = [ours == theirs for ours, theirs in zip(domain, data._home, strict=True)]
        assert same.count(False) == 1, change


def test_unseen_rules_have_unseen_words(data):
    rng = np.random.default_rng(0)

    def words(rules):
        return {word for rule in rules for _ in range(3000) for word in commands.sentence(rng, rule).split()}

    heard = words([rule for domain in data.DOMAINS.values() for rule in domain.rules])
    assert len(words(data.UNSEEN_RULES) - heard) > 30


def test_real_sets_have_every_recording_of_the_speaker_twice(made):
    for speaker in ("jackson", "nicolas"):
        found = rows(made, f"real_{speaker}")
        assert {row.speaker for row in found} == {speaker}
        assert sum(len(row.text.split()) for row in found) == 2 * 120


def test_sound_is_finite_and_loud(made):
    for name in ("train", "ood_babble", "ood_channel", "ood_room", "real_jackson"):
        for row in rows(made, name):
            samples, rate = read_audio(made / row.audio_filepath)
            assert rate == 8000
            assert np.isfinite(samples).all()
            assert 0.05 < np.abs(samples).max() <= 1.0
            assert row.duration == pytest.approx(len(samples) / 8000, abs=1e-4)


def test_phones_lie_where_they_are_spoken(made):
    """Sound is louder during vowels than during silence; the sets that are learnt from have no phones."""
    assert not any("phones" in row.extra for row in rows(made, "train"))
    vowels, silences = [], []
    for row in rows(made, "ood_accent"):
        samples, rate = read_audio(made / row.audio_filepath)
        assert row.extra["phones"][-1][1] < row.duration
        for start, end, label in row.extra["phones"]:
            power = np.square(samples[int(start * rate) : int(end * rate)]).mean()
            if label == SILENCE:
                silences.append(power)
            elif label[0] in "aeiouɑɒæɔəɛɜɪʊʌ":
                vowels.append(power)
    assert np.median(vowels) > 10 * np.median(silences)


def test_same_seed_same_bytes_any_workers(data, digits, made, tmp_path):
    assert stage(data, "--fsdd-dir", digits, "--output", tmp_path / "again", *SIZES, "--workers", 2) == 0
    for file in made.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "again" / file.relative_to(made)).read_bytes(), file


def test_missing_speakers_are_named(data, make_digits, tmp_path, capsys):
    for speakers, message in (
        ({"jackson": 1.0, "ann": 1.2}, "no recordings of nicolas"),
        ({"jackson": 1.0, "nicolas": 0.8}, "no recordings for train"),
    ):
        assert stage(data, "--fsdd-dir", make_digits(speakers), "--output", tmp_path / "out", *SIZES) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


# --- run.sh and compare.sh


@pytest.fixture
def recipe(tmp_path):
    """A copy of the recipe, without what it has made."""
    shutil.copytree(RECIPE.parents[1], tmp_path / "egs", ignore=lambda _, names: MADE & set(names))
    return tmp_path / "egs/espeak_multidomain/asr1"


def finish(script, *options):
    command = [str(script), "--python", sys.executable, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("recipes")
def test_a_dense_model_is_trained_further_with_experts(recipe, digits):
    options = ("--size", "nano", "--fsdd_dir", digits)
    status, _, errors = finish(recipe / "run.sh", *options, "--routing", "dense", "--stop_stage", 3)
    assert status == 0, errors
    (dense,) = recipe.glob("exp/nemo_nano_dense_seed1_fsdd_dir-*/model.nemo")
    further = ("--size", "nano_further", "--fsdd_dir", digits, "--routing", "omni", "--start", dense)
    status, output, errors = finish(recipe / "run.sh", *further)
    assert status == 0, errors
    (exp,) = recipe.glob("exp/nemo_nano_further_omni_seed1_*_start-model.nemo-*")
    assert f"stage 3 (upcycle): made exp/{exp.name}/start.nemo" in output
    scored = sorted(path.name for path in (exp / "score").iterdir())
    assert scored == [
        "ood_accent", "ood_babble", "ood_channel", "ood_fast", "ood_room", "ood_vocabulary",
        "real_jackson", "real_nicolas", "test",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sed", "1"], "unknown option: --sed"),
        (["--size", "huge"], "--size: 'huge' is not one of"),
        (["--seeds", "0"], "--seeds: '0' is not one of"),
        (["--jobs", "two"], "--jobs: 'two' is not one of"),
    ],
)
def test_compare_refuses_wrong_options(recipe, options, message):
    status, _, errors = finish(recipe / "compare.sh", *options)
    assert status == 2
    assert message in errors
    assert not (recipe / "data").exists()


def test_compare_says_how_it_is_used(recipe):
    status, output, _ = finish(recipe / "compare.sh", "--help")
    assert status == 0
    assert "Usage: ./compare.sh" in output
    assert "set -euo" not in output
