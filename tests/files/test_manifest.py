"""Manifests: written, read back, and refused with file and line."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.errors import SigmelError
from sigmel.files.audio import write_wav
from sigmel.files.manifest import (
    ManifestError,
    Utterance,
    filter_trainable,
    read_manifest,
    write_manifest,
    write_skipped,
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
    with pytest.raises(ManifestError, match=r"m\.jsonl:2: not JSON"):
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
    with pytest.raises(ManifestError, match=rf"m\.jsonl:1: .*{message}"):
        list(read_manifest(path))


def test_missing_and_binary_manifests_are_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.jsonl: no such"):
        list(read_manifest(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"b\.jsonl: not a text"):
        list(read_manifest(tmp_path / "b.jsonl"))


def test_nothing_bad_is_written(tmp_path):
    good = Utterance("a", "a.wav", 1.0)
    for bad in (good, Utterance("b", "b.wav", float("nan")), Utterance("c", "c.wav", 1.0, extra={"text": "x"})):
        with pytest.raises(SigmelError, match=rf"'{bad.id}'"):
            write_manifest(tmp_path / "m.jsonl", [good, bad])
    assert list(tmp_path.iterdir()) == []


def test_filter_trainable(tmp_path):
    tone = 0.3 * np.sin(np.arange(16000) / 10)
    write_wav(tmp_path / "good.wav", tone, 16000)
    write_wav(tmp_path / "silent.wav", 0 * tone, 16000)
    utterances = [
        Utterance("good", "good.wav", 1.0, "fine"),
        Utterance("empty", "good.wav", 1.0, " "),
        Utterance("long", "good.wav", 1.0, "x" * 26),
        Utterance("just", "good.wav", 1.0, "x" * 25),  # 1 s is 25 frames of 40 ms
        Utterance("silent", "silent.wav", 1.0, "x"),
        Utterance("missing", "missing.wav", 1.0, "x"),
    ]
    kept, skipped = filter_trainable(utterances, tmp_path)
    assert [utterance.id for utterance in kept] == ["good", "just"]
    assert [(entry.utterance.id, entry.reason.split(":")[-1].strip()) for entry in skipped] == [
        ("empty", "empty transcript"),
        ("long", "transcript of 26 tokens is longer than the audio of 25 frames"),
        ("silent", "silent"),
        ("missing", "no such file"),
    ]
    write_skipped(tmp_path / "skipped.jsonl", skipped)
    listed = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in listed] == [entry.reason for entry in skipped]
