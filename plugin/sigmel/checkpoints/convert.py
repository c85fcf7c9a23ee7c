"""``sigmel convert``: one checkpoint, two hosts.

A CTC recogniser with an encoder of ours is the same thing in either host: a log-mel front end, the encoder, one linear
layer over a SentencePiece vocabulary and blank. `sigmel.checkpoints.recogniser` reads what one host saved, and this
module writes what the other loads; it needs neither host. The same audio gives the same log-probabilities.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel.checkpoints.espnet_options import encoder_to_espnet
from sigmel.checkpoints.recogniser import END, NEMO_ENCODER, NEMO_MODEL, NEMO_PREPROCESSOR, READERS, Recogniser
from sigmel.errors import SigmelError
from sigmel.features.log_mel import LogMel
from sigmel.files.atomic import atomic_path

IMPOSSIBLE = -1e4  # score of `END` where NeMo had no such token: its probability is 0 in float32


def write_nemo(model: Recogniser, path: Path) -> None:
    """Write a ``.nemo`` file that ``EncDecCTCModelBPE.restore_from`` loads."""
    front_end = LogMel(**model.frontend)
    state = {f"encoder.core.{name}": value for name, value in model.state.items()}
    state["preprocessor.featurizer.window"] = front_end.window
    state["preprocessor.featurizer.fb"] = front_end.filters[None]
    state["decoder.decoder_layers.0.weight"] = model.weight.roll(-1, 0)[..., None]
    state["decoder.decoder_layers.0.bias"] = model.bias.roll(-1, 0)
    classes, features = len(model.pieces), front_end.output_size()
    config = {
        "sample_rate": model.frontend["sample_rate"],
        "preprocessor": {"_target_": NEMO_PREPROCESSOR, "pad_to": 0, **model.frontend},
        "encoder": {"_target_": NEMO_ENCODER, "encoder": model.encoder, "feat_in": features, "conf": model.options},
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": int(model.weight.shape[1]),
            "num_classes": classes,
            "vocabulary": model.pieces,
        },
        "tokenizer": {
            "dir": "",
            "type": "bpe",
            "model_path": "nemo:tokenizer.model",
            "vocab_path": "nemo:vocab.txt",
            "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
        },
        "target": NEMO_MODEL,
    }
    files = {
        "model_config.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode(),
        "model_weights.ckpt": _saved(state),
        "tokenizer.model": with_pieces(model.tokenizer, model.pieces),
        "vocab.txt": "".join(f"{piece}\n" for piece in model.pieces).encode(),
        "tokenizer.vocab": "".join(f"{piece}\t0\n" for piece in model.pieces).encode(),
    }
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mtime = len(content), int(time.time())
            archive.addfile(member, io.BytesIO(content))


def write_espnet(model: Recogniser, path: Path) -> None:
    """Write an archive that ESPnet unpacks (``.zip``), or a ``.pth`` and, beside it, ``config.yaml`` and tokenizer."""
    weight, bias, pieces = model.weight, model.bias, model.pieces
    if pieces[-1] != END:
        pieces = [*pieces, END]
        weight = torch.cat([weight, torch.zeros_like(weight[:1])])
        bias = torch.cat([bias, bias.new_full((1,), IMPOSSIBLE)])
    state = {f"encoder.core.{name}": value for name, value in model.state.items()}
    state |= {"ctc.ctc_lo.weight": weight, "ctc.ctc_lo.bias": bias}
    frontend = dict(model.frontend)
    folder = PurePosixPath("model") if path.suffix == ".zip" else PurePosixPath(str(path.parent))
    absent = ["specaug", "normalize", "preencoder", "postencoder", "decoder"]
    unset = ["init", "input_size", "joint_net_conf", "non_linguistic_symbols", "cleaner", "g2p"]
    config: dict[str, Any] = dict.fromkeys(absent + unset)
    config |= {f"{part}_conf": {} for part in [*absent, "ctc"]}
    config |= {
        "token_list": ["<blank>", *pieces],
        "token_type": "bpe",
        "bpemodel": str(folder / "tokenizer.model"),
        "use_preprocessor": True,
        "preprocessor": "default",
        "preprocessor_conf": {},
        "frontend": "log_mel",
        "frontend_conf": {"fs": frontend.pop("sample_rate"), **frontend},
        "encoder": model.encoder,
        "encoder_conf": encoder_to_espnet(model.encoder, model.options),
        "model": "sigmel_asr",
        "model_conf": {"ctc_weight": 1.0},
    }
    files = {
        "config.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode(),
        "tokenizer.model": model.tokenizer,
    }
    if path.suffix == ".zip":
        meta = {
            "files": {"asr_model_file": "model/model.pth"},
            "yaml_files": {"asr_train_config": "model/config.yaml"},
            "timestamp": time.time(),
            "torch": str(torch.__version__),
        }
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr("meta.yaml", yaml.safe_dump(meta))
            for name, content in (files | {"model.pth": _saved(state)}).items():
                archive.writestr(f"model/{name}", content)
        return
    for name, content in (files | {path.name: _saved(state)}).items():
        with atomic_path(path.parent / name) as temporary:
            temporary.write_bytes(content)


def with_pieces(tokenizer: bytes, pieces: list[str]) -> bytes:
    """A SentencePiece model of exactly these pieces: `END` is added as a control piece where only it is missing.

    Raises:
        SigmelError: the model has other pieces.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(tokenizer)
    present = [piece.piece for piece in proto.pieces]
    if [*present, END] == pieces:
        proto.pieces.add(piece=END, score=0.0, type=proto.SentencePiece.CONTROL)
    elif present != pieces:
        raise SigmelError(f"the tokenizer has {len(present)} pieces, which are not the model's {len(pieces)} tokens")
    return proto.SerializeToString()


WRITERS = {".nemo": write_nemo, ".zip": write_espnet, ".pth": write_espnet}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel convert``."""
    kinds = "NeMo's .nemo, ESPnet's packed .zip, or a .pth with config.yaml beside it"
    parser.add_argument("source", type=Path, help=kinds)
    parser.add_argument("target", type=Path, help="the same; what it is to be is told by its suffix")


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel convert``."""
    for path in (args.source, args.target):
        if path.suffix not in READERS:
            raise SigmelError(f"{path}: the suffix must be one of {', '.join(READERS)}")
    if not args.source.is_file():
        raise SigmelError(f"{args.source}: no such file")
    model = READERS[args.source.suffix](args.source)
    WRITERS[args.target.suffix](model, args.target)
    print(f"{args.target}: {model.encoder}, {len(model.pieces)} tokens, from {args.source}")
    return 0


def _saved(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: value.clone() for name, value in state.items()}, buffer)
    return buffer.getvalue()
