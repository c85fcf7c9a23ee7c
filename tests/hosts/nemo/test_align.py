"""`sigmel align` with a model of random weights: every text has an alignment."""

import json
from pathlib import Path

import pytest

from sigmel import cli


@pytest.mark.parametrize("kind", ["ctc", "ctc_bpe"])
def test_every_word_has_its_time(build_model, corpus, tmp_path, capsys, kind):
    build_model(kind).save_to(str(tmp_path / "model.nemo"))
    rows = [
        json.loads(line) | {"id": f"u{at}"} for at, line in enumerate(Path(corpus.manifest).read_text().splitlines())
    ]
    rows.append(rows[0] | {"id": "long", "text": "one " * 60})
    rows.append(rows[0] | {"id": "odd", "text": "ÖÖ"})
    manifest = tmp_path / "some.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["align", str(tmp_path / "model.nemo"), str(manifest), "--output", str(tmp_path / "out")]
    assert cli.main(command) == 1
    assert "4 utterances aligned, 2 skipped" in capsys.readouterr().out
    for row in rows[:4]:
        lines = [line.split() for line in (tmp_path / "out/words.ctm").read_text().splitlines()]
        mine = [line for line in lines if line[0] == row["id"]]
        assert [line[4] for line in mine] == row["text"].split()
        starts = [float(line[2]) for line in mine]
        assert starts == sorted(starts)
        assert starts[-1] + float(mine[-1][3]) <= row["duration"] + 0.05
        assert (tmp_path / f"out/{row['id']}.TextGrid").exists()
    skipped = [json.loads(line) for line in (tmp_path / "out/skipped.jsonl").read_text().splitlines()]
    assert [(row["id"], word in row["reason"]) for row, word in zip(skipped, ["too few", "spell"], strict=True)] == [
        ("long", True),
        ("odd", True),
    ]
