"""Model files of hosts: what is refused, and what a converted tokenizer has."""

import pytest
import torch
from sentencepiece import SentencePieceProcessor

from sigmel.checkpoints import HOSTS, espnet, format_of, host_of, nemo
from sigmel.checkpoints.checkpoint import END, Checkpoint
from sigmel.errors import SigmelError


class Intruder:
    """Runs code when a careless program unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("kind", list(HOSTS))
def test_no_code_of_a_file_is_run(kind, tmp_path, monkeypatch):
    meta = b"yaml_files: {asr_train_config: config.yaml}\nfiles: {asr_model_file: model.pth}"
    files = {"meta.yaml": meta} if kind == ".zip" else {}
    path, trace = tmp_path / f"model{kind}", tmp_path / "trace"

    def saved(state, file):
        torch.serialization.save({"weight": Intruder(str(trace))}, file)

    monkeypatch.setattr(torch, "save", saved)
    format_of(path).write(Checkpoint({}, {"weight": torch.ones(1)}, files), path)
    with pytest.raises(SigmelError, match=rf"model\{kind}: not an? .* that can be read \(UnpicklingError"):
        format_of(path).read(path)
    assert not trace.exists()


def test_files_beside_a_pth_stay_in_its_folder(tmp_path):
    checkpoint = Checkpoint({}, {}, {"../outside.txt": b"", "/absolute.txt": b""})
    espnet.write(checkpoint, tmp_path / "folder/model.pth")
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {f"folder/{name}" for name in ("model.pth", "config.yaml", "outside.txt", "absolute.txt")}


def test_a_file_is_known_by_its_suffix(tmp_path):
    assert [host_of(tmp_path / f"model{kind}") for kind in (".nemo", ".zip", ".pth")] == ["nemo", "espnet", "espnet"]
    with pytest.raises(SigmelError, match=r"model.onnx: the suffix must be one of .nemo, .zip, .pth"):
        host_of(tmp_path / "model.onnx")


def test_the_end_is_added_to_a_tokenizer(files):
    model = nemo.read_ctc(files.FOLDER / "nemo.nemo")
    longer = SentencePieceProcessor(model_proto=nemo.with_pieces(model.tokenizer, [*model.pieces, END]))
    assert [longer.id_to_piece(number) for number in range(5)] == [*model.pieces, END]
    assert [longer.is_control(number) for number in range(5)] == [False] * 4 + [True]
    assert longer.encode("one two") == SentencePieceProcessor(model_proto=model.tokenizer).encode("one two")
    assert nemo.with_pieces(model.tokenizer, model.pieces) == model.tokenizer


def test_a_tokenizer_of_other_pieces_is_refused(files):
    model = espnet.read_ctc(files.FOLDER / "espnet.zip")
    with pytest.raises(ValueError, match="the tokenizer has 4 pieces, which are not the model's 3 tokens"):
        nemo.with_pieces(model.tokenizer, ["a", "b", "c"])
