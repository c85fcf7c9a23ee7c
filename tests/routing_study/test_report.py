"""The command `sigmel routing`: a host's model and a manifest become tables, plots and a page."""

import csv
import json
import zipfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sigmel.checkpoints import nemo
from sigmel.checkpoints.checkpoint import END
from sigmel.cli import main
from sigmel.files.manifest import read_rows
from sigmel.recipes.corpora.espeak import SAMPLE_RATE, EspeakVoice
from sigmel.routing_study import recogniser, robustness
from sigmel.routing_study.paths import count_paths
from sigmel.routing_study.tables import collect

GOLDEN = Path(__file__).parents[1] / "hosts/golden"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Seven utterances of noise, one of which is no audio."""
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for number, seconds in enumerate((0.5, 1.2, 0.7, 0.9, 0.3, 0.8)):
        samples = np.random.default_rng(number).standard_normal(int(16000 * seconds)) / 10
        soundfile.write(folder / f"{number}.wav", samples, 16000)
        rows.append({"audio_filepath": f"{number}.wav", "duration": seconds, "text": "one $2$ <b>two</b>"})
    rows.append({"audio_filepath": "absent.wav", "duration": 1.0, "text": "three"})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "test.jsonl"


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Links(HTMLParser):
    """Everything a page refers to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_tokens_become_words():
    model = recogniser.load_recogniser(GOLDEN / "espnet.zip")
    names = ["<blank>", "▁one", "▁one", "<blank>", "▁one", "▁two", END]
    assert model.text(torch.tensor([model.names.index(name) for name in names])) == "one one two"


def test_a_report_is_whole_and_its_tables_agree(manifest, tmp_path, capsys):
    command = ["routing", str(GOLDEN / "nemo.nemo"), str(manifest), "--output", str(tmp_path / "report")]
    assert (
        main([*command, "--batch-size", "4", "--noise", "0", "2", "--paths", "1", "1000", "--shuffles", "1"]) == 1
    )  # one recording cannot be read
    assert "6 utterances" in capsys.readouterr().out
    folder = tmp_path / "report"
    everything = json.loads((folder / "routing.json").read_text())
    summary, tables = everything["summary"], everything["tables"]
    assert (summary["utterances"], summary["skipped"]) == (6, 1)
    assert "absent.wav: no such file" in json.loads((folder / "skipped.jsonl").read_text())["reason"]
    for name, table in tables.items():
        assert [list(row) for row in read(folder / f"{name}.csv")] == [list(row) for row in table]
    assert sum(row["frames"] for row in tables["paths"]) == summary["frames"]
    assert len(tables["paths"]) == summary["distinct_paths"]
    assert tables["coverage"][-1]["share"] == tables["paths"][-1]["cumulative"] == 1
    assert sum(row["share"] for row in tables["runs"]) == pytest.approx(1)
    for whole in (row for row in tables["segments"] if row["expert"] is None):
        assert whole["segments"] * whole["mean_frames"] == pytest.approx(summary["frames"])
    assert "phones" not in tables
    for layer in (1, 2):
        assert sum(row["share"] for row in tables["load"] if row["layer"] == layer) == pytest.approx(1)
        assert sum(row["frames"] for row in tables["tokens"] if row["layer"] == layer) == summary["frames"]
    # Two layers of one router with one expert a frame: who agrees has a run of two layers.
    assert tables["overlap"][0]["jaccard"] == pytest.approx(tables["runs"][1]["share"])

    found = {(row["disturbance"], row["value"]): row for row in tables["robustness"]}
    assert [kind for kind, _ in found] == ["none", "shuffle", "paths", "paths", "noise", "noise"]
    undisturbed = found["none", None]
    for nothing in (("noise", 0.0), ("paths", summary["distinct_paths"])):
        assert {key: found[nothing][key] for key in ("moved", "change", "wer")} == {
            "moved": 0,
            "change": 0,
            "wer": undisturbed["wer"],
        }
    for something in (("shuffle", None), ("paths", 1), ("noise", 2.0)):
        assert 0 < found[something]["moved"] <= 1
        assert found[something]["change"] > 0

    links = Links()
    links.feed((folder / "index.html").read_text())
    assert sorted(links.found) == sorted(path.name for path in folder.iterdir() if path.suffix in (".png", ".csv"))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.glob("*.png"))


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """Three utterances of eSpeak NG, with its phones, and the same phones as a CTM file."""
    folder = tmp_path_factory.mktemp("spoken")
    rows, ctm = [], []
    with EspeakVoice("en-us") as voice:
        for number, text in enumerate(("one", "she sees six seas", "two three")):
            samples, phones = voice.speak(text)
            soundfile.write(folder / f"{number}.wav", samples, SAMPLE_RATE)
            row = {"id": str(number), "audio_filepath": f"{number}.wav", "duration": len(samples) / SAMPLE_RATE}
            rows.append(row | {"text": text, "phones": phones})
            ctm += [f"{number} 1 {phone.start} {phone.end - phone.start} {phone.label}\n" for phone in phones]
    (folder / "with.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "without.jsonl").write_text("".join(json.dumps(row | {"phones": []}) + "\n" for row in rows))
    (folder / "phones.ctm").write_text("".join(ctm), encoding="utf-8")
    return folder


def test_experts_by_phone(spoken, tmp_path):
    quick = ["--shuffles", "0", "--noise", "--paths"]
    base = ["routing", str(GOLDEN / "nemo.nemo")]
    assert main([*base, str(spoken / "with.jsonl"), "--out", str(tmp_path / "a"), *quick]) == 0
    everything = json.loads((tmp_path / "a/routing.json").read_text())
    summary, tables = everything["summary"], everything["tables"]
    seconds = Counter()
    for line in (spoken / "phones.ctm").read_text(encoding="utf-8").splitlines():
        _, _, _, duration, label = line.split()
        seconds[label] += float(duration)
    frames = {row["phone"]: row["frames"] for row in tables["phones"] if row["layer"] == 1}
    assert set(frames) <= set(seconds)
    assert sum(frames.values()) == round(summary["frames_with_phone"] * summary["frames"])
    for label in ("s", "iː"):  # four and two of them: half a frame more or less at each end
        assert frames[label] == pytest.approx(seconds[label] / 0.04, abs=2)
    assert all(0 <= row["phone_information"] <= 1 for row in tables["layers"])
    assert (tmp_path / "a/phones.png").exists()

    command = [*base, str(spoken / "without.jsonl"), "--phones", str(spoken / "phones.ctm")]
    assert main([*command, "--output", str(tmp_path / "b"), *quick]) == 0
    assert (tmp_path / "b/phones.csv").read_text() == (tmp_path / "a/phones.csv").read_text()


def test_phones_of_other_utterances_are_named(spoken, manifest, tmp_path, capsys):
    (tmp_path / "other.ctm").write_text("no-one 1 0 1 a\n")
    command = ["routing", str(GOLDEN / "nemo.nemo"), str(manifest), "--output", str(tmp_path / "report")]
    assert main([*command, "--phones", str(tmp_path / "other.ctm")]) == 2
    assert "other.ctm: knows none of the ids of the manifest, such as '0'" in capsys.readouterr().err
    (tmp_path / "bad.jsonl").write_text((spoken / "with.jsonl").read_text().replace('"sil"', "0"))
    command[2] = str(tmp_path / "bad.jsonl")
    assert main(command) == 2
    assert "utterance '0': phones[3] is [0.37" in capsys.readouterr().err


def test_of_espnet_s_hybrid_the_ctc_part_is_read(tmp_path, capsys):
    """With a decoder beside CTC; what would be lost by a conversion is refused there."""
    with zipfile.ZipFile(GOLDEN / "espnet.zip") as before, zipfile.ZipFile(tmp_path / "hybrid.zip", "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name == "model/config.yaml":
                content = content.replace(b"decoder: null", b"decoder: transformer")
            after.writestr(name, content)
    hybrid, plain = (recogniser.load_recogniser(path) for path in (tmp_path / "hybrid.zip", GOLDEN / "espnet.zip"))
    assert all(map(torch.equal, hybrid.state_dict().values(), plain.state_dict().values()))
    assert main(["convert", str(tmp_path / "hybrid.zip"), str(tmp_path / "out.nemo")]) == 2
    assert "decoder is 'transformer'; only None can be read" in capsys.readouterr().err


def test_batches_do_not_matter(manifest):
    model = recogniser.load_recogniser(GOLDEN / "nemo.nemo")
    rows = read_rows(manifest)
    one, many = (collect(model, rows, batch_size) for batch_size in (1, 4))
    assert torch.equal(one.experts, many.experts)
    assert torch.equal(one.tokens.values, many.tokens.values)
    assert one.report["frames"] == len(one.experts)


def test_a_set_without_texts_has_no_word_error_rate(manifest):
    model = recogniser.load_recogniser(GOLDEN / "nemo.nemo")
    rows = [row | {"text": ""} for row in read_rows(manifest)]
    paths = count_paths(collect(model, rows, 4).experts[..., 0]).paths
    tried = robustness.conditions([4, 4], paths, shuffles=1, path_counts=[], deviations=[], seed=0)
    plain, shuffled = robustness.robustness(model, rows, 4, tried)
    assert plain["wer"] is None
    assert shuffled["change"] > 0


def test_nothing_is_left_of_a_report_that_failed(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("sigmel.routing_study.report.page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["routing", str(GOLDEN / "nemo.nemo"), str(manifest), "--output", str(tmp_path / "report")])
    assert not list(tmp_path.iterdir())


def test_a_dense_model_is_named(files, manifest, tmp_path, capsys):
    from sigmel.models.encoder import OmniRouterEncoder

    model = files.random_model(["<unk>", "▁one", "▁three", "▁two"])
    model.options = model.options | {"routing": "dense"}
    model.state = dict(OmniRouterEncoder(input_size=16, **model.options).state_dict())
    nemo.write_ctc(model, tmp_path / "dense.nemo")
    assert main(["routing", str(tmp_path / "dense.nemo"), str(manifest), "--output", str(tmp_path / "report")]) == 2
    assert "dense.nemo: encoder: OmniRouterEncoder has no routers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("none.nemo", [], "none.nemo: no such file"),
        ("make.py", [], "the suffix must be one of .nemo, .zip, .pth"),
        ("nemo.nemo", ["--noise", "-1"], "--noise: -1.0 must be at least 0"),
        ("nemo.nemo", ["--noise", "nan"], "--noise: nan must be at least 0"),
        ("nemo.nemo", ["--paths", "0"], "--paths: 0 must be at least 1"),
        ("nemo.nemo", ["--batch-size", "0"], "--batch-size: 0 must be at least 1"),
        ("nemo.nemo", ["--utterances", "0"], "--utterances: 0 must be at least 1"),
    ],
)
def test_what_cannot_be_used_is_named(manifest, tmp_path, capsys, model, options, message):
    command = ["routing", str(GOLDEN / model), str(manifest), "--output", str(tmp_path / "report"), *options]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_set_without_audio_is_named(manifest, tmp_path, capsys):
    row = {"audio_filepath": "absent.wav", "duration": 1.0, "text": ""}
    (tmp_path / "set.jsonl").write_text(json.dumps(row) + "\n")
    command = ["routing", str(GOLDEN / "nemo.nemo"), str(tmp_path / "set.jsonl"), "--output", str(tmp_path / "report")]
    assert main(command) == 2
    assert "no utterance has usable audio; the first:" in capsys.readouterr().err
