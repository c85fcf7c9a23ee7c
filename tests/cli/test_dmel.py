"""`sigmel dmel` goes on where it was stopped, tells what it could not read, and leaves nothing half-made."""

import json

import numpy as np
import pytest
import soundfile
import torch

from sigmel.cli import main
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.files.manifest import read_manifest
from sigmel.tokens.archive import DMelArchive, dmel_archive_writer

torch_threads = torch.get_num_threads()


@pytest.fixture
def recordings(tmp_path):
    """A folder of six tones, one in a folder of its own and at another rate."""
    for number in range(6):
        path = tmp_path / "audio" / ("low" if number == 5 else ".") / f"tone{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = 8000 if number == 5 else 16000
        time = np.arange(rate // 2 + 100 * number) / rate
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * (1 + number) * time), rate, subtype="FLOAT")
    return tmp_path / "audio"


def run(*arguments):
    return main(["dmel", *map(str, arguments)])


def test_a_folder(recordings, tmp_path, capsys):
    options = ("encode", recordings, "--output", tmp_path / "out", "--shard-size", 4, "--workers", 1)
    assert run(*options) == 0
    assert "utterances: 6" in capsys.readouterr().out
    first, second = (DMelArchive(tmp_path / f"out/0000{number}.dmel") for number in (0, 1))
    assert [row["id"] for row in (*first.rows, *second.rows)] == ["low/tone5", *(f"tone{n}" for n in range(5))]
    expected, _ = DMelTokenizer().encode(
        torch.from_numpy(soundfile.read(recordings / "tone1.wav", dtype="float32")[0])
    )
    assert first["tone1"].tolist() == expected[0].tolist()
    assert first.rows[0]["duration"] == pytest.approx((4000 + 500) / 8000)

    changed = (tmp_path / "out/00000.dmel").stat().st_mtime_ns
    (tmp_path / "out/00001.dmel").unlink()  # as if it had been stopped
    assert run(*options) == 0
    assert (tmp_path / "out/00000.dmel").stat().st_mtime_ns == changed
    assert len(DMelArchive(tmp_path / "out/00001.dmel")) == 2

    assert run("decode", tmp_path / "out", "--output", tmp_path / "sound", "--workers", 1) == 0
    samples, rate = soundfile.read(tmp_path / "sound/low/tone5.wav")
    assert rate == 16000
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert abs(np.argmax(spectrum) * rate / len(samples) - 1800) < 60
    assert run("decode", tmp_path / "out", "--output", tmp_path / "sound", "--id", "none") == 2
    assert "has no utterance 'none'" in capsys.readouterr().err


def test_a_manifest_and_a_list_give_the_same(recordings, tmp_path):
    rows = [
        {"id": f"u{n}", "audio_filepath": f"audio/tone{n}.wav", "duration": 0.5, "text": f"tone {n}", "level": n}
        for n in range(3)
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "wav.scp").write_text("".join(f"u{n} audio/tone{n}.wav\n" for n in range(3)))
    for source in ("m.jsonl", "wav.scp"):
        assert run("encode", tmp_path / source, "--output", tmp_path / f"of {source}", "--workers", 2) == 0
    ours, other = (DMelArchive(tmp_path / f"of {source}/00000.dmel") for source in ("m.jsonl", "wav.scp"))
    assert all(ours[n].tolist() == other[n].tolist() for n in range(3))
    assert [(row["text"], row["level"]) for row in ours.rows] == [(f"tone {n}", n) for n in range(3)]

    copied = ("--output", tmp_path / "copied", "--manifest", tmp_path / "copied.jsonl", "--workers", 1)
    assert run("decode", tmp_path / "of m.jsonl", *copied, "--id", "u1") == 0
    (utterance,) = read_manifest(tmp_path / "copied.jsonl")
    assert (utterance.id, utterance.text) == ("u1", "tone 1")
    samples, rate = soundfile.read(utterance.audio_filepath)
    assert utterance.duration == len(samples) / rate == 0.5


def test_on_a_cluster(recordings, tmp_path, capsys):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        options = ("--shard-size", 4, "--dask", cluster.scheduler_address)
        assert run("encode", recordings, "--output", tmp_path / "out", *options) == 0
    torch.set_num_threads(torch_threads)
    assert run("encode", recordings, "--output", tmp_path / "own", "--shard-size", 4, "--workers", 2) == 0
    for name in ("00000.dmel", "00001.dmel"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()


def test_what_cannot_be_read_is_told(recordings, tmp_path, capsys):
    (recordings / "bad.wav").write_text("no audio")
    soundfile.write(recordings / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    assert run("encode", recordings, "--output", tmp_path / "out", "--workers", 2) == 1
    assert "2 of 8 recordings could not be read" in capsys.readouterr().out
    told = [json.loads(line) for line in (tmp_path / "out/00000.skipped.jsonl").read_text().splitlines()]
    assert [row["id"] for row in told] == ["bad", "nan"]
    assert "holds NaN" in told[1]["reason"]
    assert len(DMelArchive(tmp_path / "out/00000.dmel")) == 6
    for path in (recordings / "bad.wav", recordings / "nan.wav", tmp_path / "out/00000.dmel"):
        path.unlink()
    assert run("encode", recordings, "--output", tmp_path / "out", "--workers", 2) == 0  # nothing is told any more


def test_another_output_is_not_written_into(recordings, tmp_path, capsys):
    assert run("encode", recordings, "--output", tmp_path / "out", "--workers", 1) == 0
    for options, message in (
        (("--bits", 5), "made with other settings: bits 4, expected 5"),
        (("--shard-size", 2), "holds other utterances than the source has now"),
    ):
        assert run("encode", recordings, "--output", tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err
    soundfile.write(recordings / "new.wav", np.zeros(8000), 16000)
    assert run("encode", recordings, "--output", tmp_path / "out") == 2
    assert "holds other utterances than the source has now" in capsys.readouterr().err
    (recordings / "new.wav").unlink()
    (tmp_path / "out/00007.dmel").write_bytes((tmp_path / "out/00000.dmel").read_bytes())
    assert run("encode", recordings, "--output", tmp_path / "out") == 2
    assert "holds 00007.dmel, which is not of these recordings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "a.txt: expected a folder, a manifest (.jsonl) or a list (.scp)"),
        ("a.scp", "", "a.scp: holds no audio"),
        ("a.scp", "u1 a.wav\nu1 b.wav", "a.scp: two utterances have the id 'u1'"),
        (
            "a.scp",
            "u1 sox a.wav -t wav - |",
            "a.scp:1: u1 has a command; expected an id and the path of an audio file",
        ),
        ("a.scp", "u1", "a.scp:1: u1 has no path"),
        ("a.jsonl", "{}", "a.jsonl:1: audio_filepath and duration missing"),
    ],
)
def test_a_source_that_is_none(tmp_path, capsys, name, content, message):
    (tmp_path / name).write_text(content)
    assert run("encode", tmp_path / name, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_options(recordings, tmp_path, capsys):
    for options, message in (
        (("--bits", 9), "bits: 9, expected 1 to 7"),
        (("--sample-rate", 96000), "sample_rate: 96000"),
        (("--dask", "tcp://127.0.0.1:1"), "no Dask cluster answers at tcp://127.0.0.1:1"),
    ):
        assert run("encode", recordings, "--output", tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err


def test_an_id_cannot_lead_out_of_the_output(tmp_path, capsys):
    with dmel_archive_writer(tmp_path / "a.dmel", DMelTokenizer().config) as writer:
        writer.write("../../escape", np.zeros((3, 80), np.uint8))
    assert run("decode", tmp_path / "a.dmel", "--output", tmp_path / "deep/out") == 2
    assert "leads out of" in capsys.readouterr().err


def test_inspect(recordings, tmp_path, capsys):
    assert run("inspect", recordings / "tone1.wav", "--output", tmp_path / "audio.png") == 0
    assert "0.51 s, 21 frames" in capsys.readouterr().out
    assert run("encode", recordings, "--output", tmp_path / "out", "--workers", 1) == 0
    assert run("inspect", tmp_path / "out", "--output", tmp_path / "ids.png", "--id", "tone3") == 0
    assert "frames:     80 channels of 4 bits, every 25 ms" in capsys.readouterr().out
    for name in ("audio.png", "ids.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert run("inspect", tmp_path / "out", "--id", "none") == 2
    assert run("inspect", tmp_path) == 2
    assert "holds no archive" in capsys.readouterr().err
