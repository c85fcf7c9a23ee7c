"""The data stage of the espeak_commands recipe."""

import numpy as np
import pytest

from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_manifest

SETS = ("train", "dev", "test", "test_ood")


@pytest.fixture(scope="module")
def data(load_stage):
    return load_stage("espeak_commands/asr1")


def stage(data, *options):
    return data.exit_status(lambda: data.main([str(option) for option in options]))


SIZES = ("--train", 60, "--dev", 20, "--test", 30)


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "tiny"
    assert stage(data, "--output", output, *SIZES, "--workers", 1) == 0
    return output


def rows(folder, name):
    return list(read_manifest(folder / f"{name}.jsonl"))


# --- the sets


def test_sizes_and_sound(made):
    assert [len(rows(made, name)) for name in SETS] == [60, 20, 30, 30]
    for name in SETS:
        for row in rows(made, name):
            samples, rate = read_audio(made / row.audio_filepath)
            assert rate == 16000
            assert row.duration == pytest.approx(len(samples) / 16000, abs=1e-3)
            assert 0.05 < np.abs(samples).max() < 1.0
            # Nobody speaks more than seven words a second: nothing was cut off.
            assert len(row.text.split()) / row.duration < 7
    assert (made / "skipped.jsonl").read_text() == ""


def test_sets_share_neither_sentences_nor_speakers(made):
    sets = {name: rows(made, name) for name in SETS}
    for first in SETS:
        for second in SETS:
            if first < second:
                assert not {row.text for row in sets[first]} & {row.text for row in sets[second]}
                if {first, second} != {"test", "test_ood"}:
                    assert not {speaker(row) for row in sets[first]} & {speaker(row) for row in sets[second]}
    for name in SETS[1:]:
        assert len({row.text for row in sets[name]}) == len(sets[name])


def speaker(row):
    return row.speaker.split("+")[1]


def test_unseen_accents_and_noise(made):
    seen = {row.speaker.split("+")[0] for name in SETS[:3] for row in rows(made, name)}
    unseen = {row.speaker.split("+")[0] for row in rows(made, "test_ood")}
    assert unseen
    assert not seen & unseen
    assert {row.extra["noise"] for row in rows(made, "test_ood")} == {"babble"}
    assert "babble" not in {row.extra.get("noise") for name in SETS[:3] for row in rows(made, name)}
    assert np.mean([row.extra["snr"] for row in rows(made, "test_ood")]) < 15


def test_same_seed_same_bytes_any_workers(data, made, tmp_path):
    assert stage(data, "--output", tmp_path / "again", *SIZES, "--workers", 2) == 0
    assert contents(tmp_path / "again") == contents(made)
    assert stage(data, "--output", tmp_path / "other", *SIZES, "--seed", 3) == 0
    assert contents(tmp_path / "other") != contents(made)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_complete_folder_is_left_alone(data, made, capsys):
    assert stage(data, "--output", made, *SIZES) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert stage(data, "--output", made, "--train", 7) == 2
    assert "another train" in capsys.readouterr().err


def test_more_sentences_than_there_are(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data.commands, "sentence", lambda rng, rule: "always the same")
    assert stage(data, "--output", tmp_path / "out", "--train", 1, "--dev", 2, "--test", 2) == 2
    assert "few sentences left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--train", "0"], ["--dev", "-1"], ["--seed", "-1"], ["--train", "many"]])
def test_wrong_options_exit_2(data, options):
    with pytest.raises(SystemExit) as caught:
        data.main([*options, "--output", "x"])
    assert caught.value.code == 2


def test_voices_that_are_named_speak_all(data, tmp_path, capsys):
    options = ("--train", 12, "--dev", 2, "--test", 2, "--workers", 1)
    assert stage(data, "--output", tmp_path / "a", *options, "--voices", "en-us+f3,en-us+m4") == 0
    assert {row.speaker for row in rows(tmp_path / "a", "train")} == {"en-us+f3", "en-us+m4"}
    assert not (tmp_path / "a/test_ood.jsonl").exists()
    assert stage(data, "--output", tmp_path / "b", *options, "--voices", "en-us+nobody") == 2
    assert "no voice 'en-us+nobody'" in capsys.readouterr().err
