"""Error rates against jiwer's, empty references, ids, the files written, and the command."""

import json

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmel.cli import main
from sigmel.errors import SigmelError
from sigmel.scoring.error_rates import error_rate, result_row, score
from sigmel.scoring.results import MEASURED, read_results

words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6)


@given(st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=5))
def test_counts_agree_with_jiwer(pairs):
    references, hypotheses = (list(side) for side in zip(*pairs, strict=True))
    found = error_rate(references, hypotheses)
    expected = jiwer.process_words(list(map(" ".join, references)), list(map(" ".join, hypotheses)))
    # Several alignments may be equally good, so that only the number of errors is certain ...
    assert found.percent == pytest.approx(100 * expected.wer)
    # ... and what follows from the lengths.
    assert found.insert - found.delete == sum(map(len, hypotheses)) - sum(map(len, references))
    assert found.low <= found.percent + 1e-6
    assert found.high >= found.percent - 1e-6 or found.utterances == 1
    assert found.utterances_wrong == sum(r != h for r, h in pairs)


def test_by_hand():
    found = error_rate([["one", "two", "three"], ["four"]], [["one", "too", "three", "three"], []])
    assert (found.total, found.sub, found.delete, found.insert) == (4, 1, 1, 1)
    assert found.percent == 75.0


def test_the_interval_of_a_perfect_system_is_nothing_and_narrows_with_data():
    assert error_rate([["a"]] * 9, [["a"]] * 9).high == 0
    half = [["a"], ["b"]]
    few, many = (error_rate([["a"]] * 2 * n, half * n) for n in (5, 500))
    assert many.low < 50 < many.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_an_empty_reference_counts_with_its_insertions():
    assert error_rate([[], ["a"]], [["b", "b"], ["a"]]).insert == 2
    with pytest.raises(SigmelError, match="every reference is empty"):
        error_rate([[], []], [["a"], []])
    with pytest.raises(SigmelError, match="1 references, but 2"):
        error_rate([["a"]], [["a"], []])


def test_files_for_readers(tmp_path):
    rows = [
        {"id": "u (1)", "speaker": "anna", "text": "one  two", "pred_text": "one"},
        {"id": "u2", "text": "three", "pred_text": "three"},
    ]
    found = result_row("test", *score(rows, tmp_path))
    assert (found["wer"], found["words"], found["del"]) == (33.33, 3, 1)
    assert (found["characters"], found["character_del"], found["cer"]) == (12, 4, 33.33)
    assert (tmp_path / "ref.trn").read_text() == "one two (anna-u__1_)\nthree (unknown-u2)\n"
    assert (tmp_path / "hyp.trn").read_text() == "one (anna-u__1_)\nthree (unknown-u2)\n"
    first = json.loads((tmp_path / "per_utt.jsonl").read_text().splitlines()[0])
    assert first["alignment"] == [["one", "one"], ["two", "*"]]
    assert (first["sub"], first["del"], first["ins"]) == (0, 1, 0)


@pytest.fixture
def decoded(tmp_path):
    (tmp_path / "decode").mkdir()
    rows = [{"id": "x", "text": "one two", "pred_text": "one too"}, {"id": "y", "text": "six", "pred_text": ""}]
    (tmp_path / "decode/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "decode/test.skipped.jsonl").write_text("")
    (tmp_path / "decode/test.timing.json").write_text('{"rtfx": 70.5}')
    (tmp_path / "train.json").write_text('{"seconds": 12.5, "params_total": 20, "params_active": 10}')
    return tmp_path


def test_the_command_scores_a_folder_into_results(decoded, capsys):
    command = ["score", f"{decoded}/decode", "--output", f"{decoded}/score", "--results", f"{decoded}/results.json"]
    command += ["--train-facts", f"{decoded}/train.json", "--tag", "host=nemo", "size=tiny", "routing=omni", "seed=3"]
    assert main(command) == 0
    assert "WER 66.67 %" in capsys.readouterr().out
    (row,) = read_results(decoded / "results.json")
    expected = {"test_set": "test", "wer": 66.67, "sub": 1, "del": 1, "ins": 0, "words": 3, "host": "nemo", "seed": 3}
    expected |= {"training_seconds": 12.5, "params_total": 20, "params_active": 10, "rtfx": 70.5, "routing": "omni"}
    assert expected.items() <= row.items()
    assert row["wer_low"] <= row["wer"] <= row["wer_high"]
    assert {"date", "python", "torch", "cpu"} <= row["environment"].keys()
    assert main(command) == 2  # the folder is complete; it is not scored twice
    assert "exists already" in capsys.readouterr().err


def test_tags_are_all_that_a_row_says_beside_what_was_measured(decoded):
    command = ["score", f"{decoded}/decode", "--output", f"{decoded}/score", "--results", f"{decoded}/results.json"]
    assert main([*command, "--tag", "host=nemo", "speaker=theo"]) == 0
    (row,) = read_results(decoded / "results.json")
    assert row.keys() - MEASURED == {"test_set", "host", "speaker"}


@pytest.mark.parametrize("tag", ["host", "wer=3", "=x", "test_set=x"])
def test_a_wrong_tag_is_refused(decoded, capsys, tag):
    assert main(["score", f"{decoded}/decode", "--output", f"{decoded}/score", "--tag", tag]) == 2
    assert f"--tag: '{tag}' is not of the form KEY=VALUE" in capsys.readouterr().err
    assert not (decoded / "score").exists()


def test_the_command_takes_references_from_a_manifest(decoded, capsys):
    (decoded / "ref.jsonl").write_text(
        '{"id": "x", "text": "a b"}\n{"id": "y", "text": "c"}\n{"id": "z", "text": "d"}\n'
    )
    command = ["score", f"{decoded}/decode/test.jsonl", "--output", f"{decoded}/score"]
    assert main([*command, "--reference", f"{decoded}/ref.jsonl"]) == 0
    output = capsys.readouterr().out
    assert "1 utterances have no hypothesis and count as deleted: z" in output
    assert "WER 100.00 %" in output
    (decoded / "ref.jsonl").write_text('{"id": "x", "text": "a b"}\n')
    command[3] = f"{decoded}/again"
    assert main([*command, "--reference", f"{decoded}/ref.jsonl"]) == 2
    assert "test.jsonl: 1 hypotheses belong to no reference: y" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "test.jsonl:1: not a row of JSON"),
        ("[]", "test.jsonl:1: not a row of JSON"),
        ('{"id": "x", "text": "one"}', "test.jsonl:1: needs a text in pred_text"),
        ('{"id": "x", "text": "a", "pred_text": ""}\n' * 2, "test.jsonl:2: the id 'x' stands there twice"),
        ("", "holds no utterance"),
    ],
)
def test_bad_rows_are_named_and_leave_nothing(decoded, capsys, line, message):
    (decoded / "decode/test.jsonl").write_text(line)
    assert main(["score", f"{decoded}/decode", "--output", f"{decoded}/score"]) == 2
    assert message in capsys.readouterr().err
    assert not (decoded / "score").exists()


def test_a_folder_that_is_not_there_says_what_to_do(tmp_path, capsys):
    assert main(["score", f"{tmp_path}/decode", "--output", f"{tmp_path}/score"]) == 2
    assert f"{tmp_path}/decode: no such file or folder; decode a test set first" in capsys.readouterr().err
