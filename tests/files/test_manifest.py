"""Manifests: written, read back, and refused with file and line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.errors import SigmelError
from sigmel.files.manifest import (
    Utterance,
    read_manifest,
    write_manifest,
    write_rows,
)

rows = st.builds(
    Utterance,
    id=st.uuids().map(str),
    audio_filepath=st.text(min_size=1),
    duration=st.floats(0, 1e4),
    text=st.text(),
    speaker=st.text(),
    extra=st.dictionaries(st.sampled_from(["snr", "noise"]), st.integers() | st.text()),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(rows, unique_by=lambda row: row.id))
def test_round_trip(tmp_path_factory, utterances):
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    assert write_manifest(path, utterances) == len(utterances)
    assert list(read_manifest(path)) == utterances


def test_rows_of_others_are_read(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "/a/b.wav", "duration": 2, "text": "x", "offset": 3}\n\n')
    assert list(read_manifest(path)) == [Utterance("b", "/a/b.wav", 2, "x", "", {"offset": 3})]


def test_reading_is_lazy(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio_filepath": "a.wav", "duration": 2}\nbroken\n')
    reader = read_manifest(path)
    assert next(reader).id == "a"
    with pytest.raises(SigmelError, match=r"m\.jsonl:2: not JSON"):
        next(reader)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "JSON object"),
        ('{"duration": 1}', "audio_filepath missing"),
        ('{"audio_filepath": "a.wav"}', "duration missing"),
        ('{"audio_filepath": "a.wav", "duration": "long"}', "duration must be"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "duration must be"),
        ('{"audio_filepath": "a.wav", "duration": -1}', "duration must be"),
        ('{"audio_filepath": "a.wav", "duration": 1, "text": 5}', "text must be"),
        ('{"audio_filepath": "", "duration": 1}', "is empty"),
    ],
)
def test_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "m.jsonl"
    path.write_text(line)
    with pytest.raises(SigmelError, match=rf"m\.jsonl:1: .*{message}"):
        list(read_manifest(path))


def test_missing_and_binary_manifests_are_named(tmp_path):
    with pytest.raises(SigmelError, match=r"none\.jsonl: no such"):
        list(read_manifest(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SigmelError, match=r"b\.jsonl: not a text"):
        list(read_manifest(tmp_path / "b.jsonl"))


def test_nothing_bad_is_written(tmp_path):
    good = Utterance("a", "a.wav", 1.0)
    for bad in (good, Utterance("b", "b.wav", float("nan")), Utterance("c", "c.wav", 1.0, extra={"text": "x"})):
        with pytest.raises(SigmelError, match=rf"'{bad.id}'"):
            write_manifest(tmp_path / "m.jsonl", [good, bad])
    assert list(tmp_path.iterdir()) == []


def test_rows_are_written_as_they_are(tmp_path):
    rows = [Utterance("a", "a.wav", 1.0, "é", extra={"snr": 3}).to_row() | {"reason": "silent"}, {"id": "a"}]
    write_rows(tmp_path / "skipped.jsonl", rows)
    lines = (tmp_path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert "é" in lines[0]
