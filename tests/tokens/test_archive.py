"""Archives give back what was written, refuse what is not theirs, and are read by lhotse and webdataset."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.tokens.archive import DMelArchive, DMelArchiveError, DMelArchiveWriter, dmel_archive_writer

CONFIG = DMelTokenizer().config


def some_ids(frames, channels=80, bins=16, seed=0):
    return np.random.default_rng(seed).integers(0, bins, (frames, channels), dtype=np.uint8)


def write_all(path, utterances):
    with dmel_archive_writer(path, CONFIG) as writer:
        for name, ids in utterances:
            writer.write(name, ids)


def in_memory(utterances, config):
    file = io.BytesIO()
    writer = DMelArchiveWriter(file, config)
    for number, ids in enumerate(utterances):
        writer.write(f"utterance {number}", ids, text="ß" * number)
    writer.close()
    return file.getvalue()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 50), max_size=5),
    st.sampled_from([1, 7, 80]),
    st.sampled_from([2, 4, 5]),
    st.integers(0, 99),
)
def test_gives_back_what_was_written(frames, channels, bits, seed):
    config = {**CONFIG, "channels": channels, "bits": bits}
    utterances = [some_ids(n, channels, 2**bits, seed) for n in frames]
    archive = DMelArchive(in_memory(utterances, config))
    assert archive.tokenizer == config
    assert len(archive) == len(utterances)
    assert [row["text"] for row in archive.rows] == ["ß" * n for n in range(len(utterances))]
    for number, ids in enumerate(utterances):
        for found in (archive[number], archive[f"utterance {number}"]):
            assert found.dtype == np.uint8
            assert found.tolist() == ids.tolist()
        assert archive.read(number, 3, 9).tolist() == ids[3:9].tolist()


def test_a_second_takes_1600_bytes(tmp_path):
    with dmel_archive_writer(tmp_path / "a.dmel", CONFIG) as writer:
        for number in range(20):
            writer.write(str(number), some_ids(40 * 60))
    assert (tmp_path / "a.dmel").stat().st_size < 20 * 60 * 1600 * 1.002


def test_nothing_half_written_is_left(tmp_path):
    with pytest.raises(SigmelError):
        write_all(tmp_path / "a.dmel", [("a", some_ids(3)), ("b", some_ids(3) + 16)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (some_ids(3).astype(np.int64), r"a.dmel: b: ids are int64 \(3, 80\), expected uint8 \(frames, 80\)"),
        (some_ids(3, 40), r"a.dmel: b: ids are uint8 \(3, 40\)"),
        (some_ids(3) + 16, "a.dmel: b: ids up to 31, but bins have 0 to 15"),
    ],
)
def test_what_is_no_dmel_is_not_written(tmp_path, ids, message):
    with pytest.raises(SigmelError, match=message):
        write_all(tmp_path / "a.dmel", [("b", ids)])


def test_an_id_is_written_once(tmp_path):
    with pytest.raises(SigmelError, match="two utterances have the id 'b'"):
        write_all(tmp_path / "a.dmel", [("b", some_ids(3)), ("b", some_ids(3))])


def test_a_file_that_is_cut_off_or_damaged_is_refused():
    whole = in_memory([some_ids(5), some_ids(2)], CONFIG)
    for end in range(len(whole)):
        with pytest.raises(DMelArchiveError):
            DMelArchive(whole[:end])
    for at in (*range(8, 16), *range(len(whole) - 8, len(whole))):  # of the lengths and places
        with pytest.raises(DMelArchiveError, match="cut off or damaged"):
            DMelArchive(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not a dMel archive"), (b"RIFF and so on", "not a dMel archive"), (b"dMel\r\n\x1a\x07", "of version 7")],
)
def test_another_file_is_refused(tmp_path, content, message):
    (tmp_path / "a.dmel").write_bytes(content)
    with pytest.raises(DMelArchiveError, match=f"a.dmel: {message}"):
        DMelArchive(tmp_path / "a.dmel")


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(DMelArchiveError, match=r"none\.dmel: no such file"):
        DMelArchive(tmp_path / "none.dmel")
    with pytest.raises(DMelArchiveError, match="not a dMel archive"):
        DMelArchive(tmp_path)


def test_other_settings_are_named():
    archive = in_memory([some_ids(5)], CONFIG)
    assert len(DMelArchive(archive, CONFIG)) == 1
    with pytest.raises(DMelArchiveError, match=r"made with other settings: hop_ms 25\.0, expected 12\.5"):
        DMelArchive(archive, DMelTokenizer(hop_ms=12.5).config)
    own = DMelTokenizer(codebook=[[0.0, 1.0]] * 80).config
    with pytest.raises(DMelArchiveError, match="codebook None, expected of 80 channels"):
        DMelArchive(archive, own)


def test_lhotse(tmp_path):
    pytest.importorskip("lhotse")
    from lhotse import CutSet, MonoCut

    from sigmel.tokens.lhotse import DMelLhotseWriter

    ids = {f"cut {number}": some_ids(41, seed=number) for number in range(3)}
    cuts = [MonoCut(id=name, start=0, duration=1.0, channel=0) for name in ids]
    with DMelLhotseWriter(tmp_path / "a.dmel", CONFIG) as writer:
        for cut in cuts:
            cut.dmel = writer.store_array(cut.id, ids[cut.id], frame_shift=0.025, temporal_dim=0, start=0)
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    read = CutSet.from_file(tmp_path / "cuts.jsonl")
    for cut in read:
        assert cut.dmel.load().tolist() == ids[cut.id].tolist()
        part = cut.dmel.load(start=0.25, duration=0.5)
        assert part.tolist() == ids[cut.id][10:30].tolist()


def test_webdataset(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    from sigmel.tokens.webdataset import decode_dmel, dmel_sample

    with webdataset.TarWriter(str(tmp_path / "a.tar")) as sink:
        for number in range(3):
            sink.write(dmel_sample(f"u.{number}", some_ids(10 + number), CONFIG, text=f"text {number}"))
    dataset = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode(decode_dmel)
    found = list(dataset)
    assert [sample["json"] for sample in found] == [{"id": f"u.{n}", "text": f"text {n}"} for n in range(3)]
    assert all(sample["dmel"].tolist() == some_ids(10 + n).tolist() for n, sample in enumerate(found))


def test_the_layout_is_what_the_manual_says(tmp_path):
    """Read without any code of ours."""
    ids = some_ids(3)
    with dmel_archive_writer(tmp_path / "a.dmel", CONFIG) as writer:
        writer.write("a", ids, text="hello")
    content = (tmp_path / "a.dmel").read_bytes()
    assert content[:8] == b"dMel\r\n\x1a\x01"
    size = int.from_bytes(content[8:16], "little")
    assert json.loads(content[16 : 16 + size]) == {"tokenizer": CONFIG, "packed": True}
    at = int.from_bytes(content[-8:], "little")
    pairs = np.frombuffer(content[16 + size : at], np.uint8).reshape(3, 40)
    assert (pairs & 15).tolist() == ids[:, ::2].tolist()
    assert (pairs >> 4).tolist() == ids[:, 1::2].tolist()
    assert json.loads(content[at + 8 : -8]) == [{"id": "a", "frames": 3, "text": "hello"}]
