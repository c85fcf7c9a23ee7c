"""Phones of frames: in the middle of each, from manifests and from CTM files."""

import pytest
import torch

from sigmel.errors import SigmelError
from sigmel.routing_study.phones import label_frames, read_alignments


def test_a_frame_has_the_phone_in_its_middle():
    rows = [
        {"id": "a", "phones": [[0.0, 0.05, "sil"], [0.05, 0.13, "a"], [0.17, 0.3, "t"]]},
        {"id": "b"},
        {"id": "c", "phones": [[0.05, 0.1, "t"]]},
    ]
    labels = label_frames(rows, [5, 2, 3], frame_seconds=0.04)  # middles: 0.02, 0.06, 0.10, 0.14, 0.18
    assert [labels.names[value] if value >= 0 else None for value in labels.values.tolist()] == (
        ["sil", "a", "a", None, "t"] + [None] * 2 + [None, "t", None]
    )


def test_without_alignments_there_are_no_labels():
    assert label_frames([{"id": "a"}, {"id": "b", "phones": []}], [3, 4], 0.04) is None


def test_of_phones_that_overlap_the_later_one_counts():
    labels = label_frames([{"id": "a", "phones": [[0.0, 0.2, "a"], [0.1, 0.2, "b"]]}], [4], 0.05)
    assert torch.equal(labels.values, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize(
    "phones",
    [
        "a b",
        [[0.1, 0.2]],
        [[0.2, 0.1, "a"]],
        [[0.2, 0.3, "a"], [0.1, 0.2, "b"]],
        [["0", 0.1, "a"]],
        [[0.0, 0.1, 3]],
        [7],
    ],
)
def test_what_is_no_alignment_is_named(phones):
    with pytest.raises(SigmelError, match="utterance 'x': phones"):
        label_frames([{"id": "x", "phones": phones}], [3], 0.04)


def test_a_ctm_file(tmp_path):
    lines = [";; made by hand", "b 1 0.50 0.25 k 0.9", "a 1 0.10 0.05 t", "b 1 0.00 0.50 ɛ", ""]
    (tmp_path / "phones.ctm").write_text("\n".join(lines), encoding="utf-8")
    assert read_alignments(tmp_path / "phones.ctm") == {
        "a": [(0.1, pytest.approx(0.15), "t")],
        "b": [(0.0, 0.5, "ɛ"), (0.5, 0.75, "k")],
    }


@pytest.mark.parametrize("line", ["a 1 0.1 0.2", "a 1 x 0.2 t"])
def test_lines_that_are_none_of_a_ctm_are_named(tmp_path, line):
    (tmp_path / "phones.ctm").write_text(f"a 1 0.1 0.2 t\n{line}\n")
    with pytest.raises(SigmelError, match=r"phones.ctm:2: expected 'id channel start duration phone'"):
        read_alignments(tmp_path / "phones.ctm")


def test_an_absent_ctm_file_is_named(tmp_path):
    with pytest.raises(SigmelError, match="no such alignment"):
        read_alignments(tmp_path / "phones.ctm")


TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0.0
xmax = 0.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0.0
        xmax = 0.5
        intervals: size = 1
        intervals [1]:
            xmin = 0.0
            xmax = 0.5
            text = "yes"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0.0
        xmax = 0.5
        intervals: size = 3
        intervals [1]:
            xmin = 0.0
            xmax = 0.15
            text = "j"
        intervals [2]:
            xmin = 0.15
            xmax = 0.3
            text = ""
        intervals [3]:
            xmin = 0.3
            xmax = 0.5
            text = "ɛ"
"""


def test_a_folder_of_textgrid_files(tmp_path):
    (tmp_path / "speaker").mkdir()
    (tmp_path / "speaker/a.TextGrid").write_text(TEXTGRID, encoding="utf-8")
    assert read_alignments(tmp_path) == {"a": [(0.0, 0.15, "j"), (0.3, 0.5, "ɛ")]}
    (tmp_path / "b.TextGrid").write_text(TEXTGRID.replace("phones", "segments"), encoding="utf-8")
    with pytest.raises(SigmelError, match=r"b.TextGrid: has no tier named phones"):
        read_alignments(tmp_path)
    (tmp_path / "b.TextGrid").write_text(TEXTGRID, encoding="utf-16")  # as Praat saves it
    with pytest.raises(SigmelError, match=r"b.TextGrid: not a text file in UTF-8"):
        read_alignments(tmp_path)
