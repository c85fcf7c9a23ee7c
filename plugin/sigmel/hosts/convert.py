"""``sigmel convert``: one checkpoint, two hosts.

A CTC recogniser with an encoder of ours is the same thing in either host: a log-mel front end, the encoder, one linear
layer over a SentencePiece vocabulary and blank. This module reads it from what one host saved and writes what the
other loads; it needs neither host. The same audio gives the same log-probabilities.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel.data.atomic import atomic_path
from sigmel.data.audio import parse_sample_rate
from sigmel.errors import SigmelError
from sigmel.features.log_mel import LogMel
from sigmel.hosts.espnet_options import encoder_from_espnet, encoder_to_espnet

END = "<sos/eos>"  # a token of every ESPnet model, which CTC never emits
IMPOSSIBLE = -1e4  # its score where NeMo had no such token: its probability is 0 in float32
NEMO_MODEL = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
NEMO_ENCODER = "sigmel.hosts.nemo.RegisteredEncoder"
NEMO_PREPROCESSOR = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
# Options of NeMo's preprocessor that LogMel has too, with NeMo's defaults.
FRONTEND = {
    "sample_rate": 16000,
    "window_size": 0.02,
    "window_stride": 0.01,
    "window": "hann",
    "features": 64,
    "n_fft": None,
    "preemph": 0.97,
    "normalize": "per_feature",
    "dither": 1e-5,
}
# Those that it has not, and the values that mean what LogMel does. Padding of the batch is masked by the encoder.
FIXED = {"lowfreq": 0, "highfreq": None, "log": True, "log_zero_guard_type": "add", "log_zero_guard_value": 2**-24}
FIXED |= {"frame_splicing": 1, "exact_pad": False, "mag_power": 2.0, "mel_norm": "slaney"}


@dataclass
class Recogniser:
    """A CTC recogniser, free of any host.

    Attributes:
        frontend: options of `sigmel.features.log_mel.LogMel`.
        encoder: name of the encoder in the registry.
        options: the encoder's options, without `input_size`.
        state: the encoder's parameters.
        weight, bias: (1 + V, D) and (1 + V,), the linear layer; blank is the first row.
        pieces: the V tokens.
        tokenizer: a SentencePiece model of these pieces, `END` left out or not.
    """

    frontend: dict[str, Any]
    encoder: str
    options: dict[str, Any]
    state: dict[str, Tensor]
    weight: Tensor
    bias: Tensor
    pieces: list[str]
    tokenizer: bytes


def read_nemo(path: Path) -> Recogniser:
    """Read a ``.nemo`` file.

    Raises:
        SigmelError: it is no such file, or no CTC model with our encoder and NeMo's log-mel front end.
    """
    with _readable(path, "a .nemo file"), tarfile.open(path) as archive:
        files = {PurePosixPath(member.name).name: member for member in archive.getmembers() if member.isfile()}

        def read(name: str) -> bytes:
            content = archive.extractfile(files[name])
            assert content is not None  # it is a file
            return content.read()

        config = yaml.safe_load(read("model_config.yaml"))
        _require(path, "target", config.get("target"), (NEMO_MODEL,))
        state = torch.load(io.BytesIO(read("model_weights.ckpt")), map_location="cpu", weights_only=True)
        tokenizer = read(config["tokenizer"]["model_path"].removeprefix("nemo:"))
    frontend, encoder = dict(config["preprocessor"]), dict(config["encoder"])
    _require(path, "preprocessor._target_", frontend.pop("_target_"), (NEMO_PREPROCESSOR,))
    for name, value in FIXED.items():
        _require(path, f"preprocessor.{name}", frontend.get(name, value), (value,))
    target = encoder.pop("_target_")
    _require(path, "encoder._target_", target, (NEMO_ENCODER, "sigmel.hosts.nemo.OmniRouterEncoder"))
    encoder.pop("feat_in")
    name, options = "omni_router", encoder
    if target == NEMO_ENCODER:
        name, options = encoder["encoder"], encoder.get("conf") or {}
    weight, bias = (state[f"decoder.decoder_layers.0.{key}"].squeeze(-1) for key in ("weight", "bias"))
    return Recogniser(
        {name: frontend.get(name, default) for name, default in FRONTEND.items()},
        name,
        options,
        _part(state, "encoder.core."),
        weight.roll(1, 0),  # NeMo's blank is the last
        bias.roll(1, 0),
        list(config["decoder"]["vocabulary"]),
        tokenizer,
    )


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


def read_espnet(path: Path) -> Recogniser:
    """Read an archive packed by ESPnet (``.zip``), or a ``.pth`` with its ``config.yaml`` beside it.

    Raises:
        SigmelError: it is no such file, or no CTC model with our encoder and ``frontend: log_mel``.
    """
    with _readable(path, "an ESPnet model"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                meta = yaml.safe_load(archive.read("meta.yaml"))
                config = yaml.safe_load(archive.read(meta["yaml_files"]["asr_train_config"]))
                weights = archive.read(meta["files"]["asr_model_file"])
                tokenizer = archive.read(config["bpemodel"]) if config.get("bpemodel") else b""
        else:
            config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
            weights = path.read_bytes()
            bpemodel = Path(config.get("bpemodel") or "")
            beside = path.parent / bpemodel.name
            tokenizer = (beside if beside.is_file() else bpemodel).read_bytes()
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    for key, wanted in {"frontend": "log_mel", "normalize": None, "decoder": None, "token_type": "bpe"}.items():
        _require(path, key, config.get(key), (wanted,))
    frontend = dict(config.get("frontend_conf") or {})
    _require(path, "token_list[0]", config["token_list"][0], ("<blank>",))
    for key in frontend:
        _require(path, "a key of frontend_conf", key, ("fs", *FRONTEND))
    defaults = FRONTEND | {"window_size": 0.025, "features": 80}
    known = {"sample_rate": parse_sample_rate(frontend.pop("fs", 16000))}
    return Recogniser(
        defaults | frontend | known,
        config["encoder"],
        encoder_from_espnet(config["encoder"], config.get("encoder_conf") or {}),
        _part(state, "encoder.core."),
        state["ctc.ctc_lo.weight"],
        state["ctc.ctc_lo.bias"],
        list(config["token_list"][1:]),
        tokenizer,
    )


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


READERS = {".nemo": read_nemo, ".zip": read_espnet, ".pth": read_espnet}
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


@contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except SigmelError:
        raise
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{path}: not {kind} that can be read ({type(error).__name__}: {error})") from error


def _require(path: Path, key: str, value: Any, wanted: tuple[Any, ...]) -> None:
    if value not in wanted:
        raise SigmelError(f"{path}: {key} is {value!r}; only {' or '.join(map(repr, wanted))} can be converted")


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _saved(state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: value.clone() for name, value in state.items()}, buffer)
    return buffer.getvalue()
