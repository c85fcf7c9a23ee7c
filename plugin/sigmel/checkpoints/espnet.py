"""ESPnet's model files, a packed `.zip` or a `.pth` beside its `config.yaml`, and the words of their options.

ESPnet's streaming inference reads `block_size`, `hop_size` and `look_ahead` in the configuration of an encoder. So an
encoder that streams has these three options in ESPnet in place of our `chunk_size` and `left_context`: a block is all
frames that are seen at once, a hop the new ones among them.
"""

from __future__ import annotations

import inspect
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from sigmel import registry
from sigmel.checkpoints.checkpoint import (
    BLANK,
    ENCODER,
    END,
    FRONTEND,
    Checkpoint,
    CTCModel,
    NeedsHost,
    require,
)
from sigmel.errors import SigmelError, reading
from sigmel.files.atomic import atomic_path
from sigmel.files.audio import parse_sample_rate
from sigmel.models.upcycling import OURS, Stack

LANGUAGE_MODEL = "dmel_lm"  # as a decoder, or in speech synthesis
META = "meta.yaml"  # of an archive: where its other files are
CORE = {"chunk_size", "left_context"}
STREAMING: dict[str, int | None] = {"block_size": None, "hop_size": None, "look_ahead": 0}  # with their defaults
IMPOSSIBLE = -1e4  # score of `END` for a model without this token: its probability is 0 in float32


class RoutedEncoder(NamedTuple):
    """One of ESPnet's own encoders with routed experts: its name, and its option for the experts' activation."""

    name: str
    activation: str


ROUTED = {
    "conformer": RoutedEncoder("omni_router_conformer", "activation_type"),
    "e_branchformer": RoutedEncoder("omni_router_e_branchformer", "ffn_activation_type"),
}
ROUTED_STACK = Stack("encoder.encoders.{}.feed_forward.", ("w_1", "w_2"), "experts.", "encoder.routers.")
ACTIVATIONS = {"swish": "silu", "relu": "relu"}  # ESPnet's name -> the experts' name


# --- Files


def _names(meta: bytes) -> tuple[str, str]:
    """The names of the configuration and of the parameters in an archive of a recogniser, or of another model."""
    content = yaml.safe_load(meta)
    prefix = "asr_" if "asr_train_config" in content["yaml_files"] else ""
    return content["yaml_files"][f"{prefix}train_config"], content["files"][f"{prefix}model_file"]


def _kind(path: Path) -> str:
    kind = "an archive of an ESPnet model" if path.suffix == ".zip" else "an ESPnet model beside its config.yaml"
    return f"{kind} that can be read"


def _config(path: Path) -> bytes:
    """The configuration of a model."""
    if path.suffix != ".zip":
        return (path.parent / "config.yaml").read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(_names(archive.read(META))[0])


def read(path: Path) -> Checkpoint:
    """Read an archive, or a `.pth` and the `config.yaml` beside it, see `sigmel.checkpoints`."""
    with reading(path, _kind(path)):
        if path.suffix != ".zip":
            return Checkpoint.parse(_config(path), path.read_bytes(), {})
        with zipfile.ZipFile(path) as archive:
            files = {member.filename: archive.read(member) for member in archive.infolist() if not member.is_dir()}
        config, weights = _names(files[META])
        return Checkpoint.parse(files.pop(config), files.pop(weights), files)


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write an archive, or a `.pth` and, beside it, `config.yaml` and the other files, see `sigmel.checkpoints`."""
    if path.suffix == ".zip":
        contents = dict(zip(_names(checkpoint.files[META]), checkpoint.contents(), strict=True))
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for name, content in (checkpoint.files | contents).items():
                archive.writestr(name, content)
        return
    if (path.parent / "config.yaml").exists():
        raise SigmelError(f"{path.parent} has a config.yaml already; name a file in another folder")
    contents = dict(zip(("config.yaml", path.name), checkpoint.contents(), strict=True))
    for name, content in (checkpoint.files | contents).items():
        with atomic_path(path.parent / Path(name).name) as temporary:  # whatever folder a name says
            temporary.write_bytes(content)


# --- CTC recognisers


def read_ctc(path: Path, hybrid: bool = False) -> CTCModel:
    """Read the CTC recogniser in a model file, see `sigmel.checkpoints`."""
    with reading(path, _kind(path)):
        config = yaml.safe_load(_config(path))
        for key, wanted in {"frontend": "log_mel", "normalize": None, "token_type": "bpe"}.items():
            require(key, config.get(key), (wanted,))
        require("encoder", config.get("encoder"), tuple(registry.names("encoder")))
        if not hybrid:
            require("decoder", config.get("decoder"), (None,))
        require("token_list[0]", config["token_list"][0], (BLANK,))
        frontend = dict(config.get("frontend_conf") or {})
        for key in frontend:
            require("a key of frontend_conf", key, ("fs", *FRONTEND))
        checkpoint = read(path)
        if "ctc.ctc_lo.weight" not in checkpoint.state:
            raise NeedsHost("it was trained without CTC (ctc_weight: 0)")
        sample_rate = parse_sample_rate(frontend.pop("fs", FRONTEND["sample_rate"]))
        return CTCModel(
            FRONTEND | frontend | {"sample_rate": sample_rate},
            config["encoder"],
            encoder_from_espnet(config["encoder"], config.get("encoder_conf") or {}),
            checkpoint.encoder_state(),
            checkpoint.state["ctc.ctc_lo.weight"],
            checkpoint.state["ctc.ctc_lo.bias"],
            list(config["token_list"][1:]),
            _tokenizer(path, checkpoint),
        )


def _tokenizer(path: Path, checkpoint: Checkpoint) -> bytes:
    """The SentencePiece model of a recogniser, b"" if the configuration names none."""
    name = checkpoint.config.get("bpemodel") or ""
    if not name or path.suffix == ".zip":
        return checkpoint.files[name] if name else b""
    beside = path.parent / Path(name).name
    return (beside if beside.is_file() else Path(name)).read_bytes()


def write_ctc(model: CTCModel, path: Path) -> None:
    """Write an archive, or a `.pth` and, beside it, `config.yaml` and the tokenizer, see `sigmel.checkpoints`."""
    weight, bias, pieces = model.weight, model.bias, model.pieces
    if pieces[-1] != END:
        pieces = [*pieces, END]
        weight = torch.cat([weight, torch.zeros_like(weight[:1])])
        bias = torch.cat([bias, bias.new_full((1,), IMPOSSIBLE)])
    state = {f"{ENCODER}{name}": value for name, value in model.state.items()}
    state |= {"ctc.ctc_lo.weight": weight, "ctc.ctc_lo.bias": bias}
    frontend = dict(model.frontend)
    packed = path.suffix == ".zip"
    absent = ["specaug", "normalize", "preencoder", "postencoder", "decoder"]
    unset = ["init", "input_size", "joint_net_conf", "non_linguistic_symbols", "cleaner", "g2p"]
    config: dict[str, Any] = dict.fromkeys(absent + unset) | {f"{part}_conf": {} for part in [*absent, "ctc"]}
    config |= {
        "token_list": [BLANK, *pieces],
        "token_type": "bpe",
        "bpemodel": "model/tokenizer.model" if packed else str(path.parent / "tokenizer.model"),
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
    files = {"tokenizer.model": model.tokenizer}
    if packed:
        meta = {
            "files": {"asr_model_file": "model/model.pth"},
            "yaml_files": {"asr_train_config": "model/config.yaml"},
            "timestamp": time.time(),
            "torch": str(torch.__version__),
        }
        files = {META: yaml.safe_dump(meta).encode(), "model/tokenizer.model": model.tokenizer}
    write(Checkpoint(config, state, files), path)


# --- Experts


def add_experts(config: dict[str, Any], options: Mapping[str, Any]) -> Stack:
    """Write the options of experts into the configuration of a model, see `sigmel.checkpoints`.

    A recogniser becomes `model: sigmel_asr`, which adds the load-balancing loss.
    """
    if config.get("tts") == LANGUAGE_MODEL:
        config["tts_conf"] = {**(config.get("tts_conf") or {}), **options}
        return OURS.within("tts.lm.")
    model, encoder, conf = config.get("model") or "espnet", config.get("encoder"), config.get("encoder_conf") or {}
    if model not in ("espnet", "sigmel_asr"):
        raise SigmelError(f"model: {model} has no place for the load-balancing loss; only espnet and sigmel_asr have")
    if config.get("decoder") == LANGUAGE_MODEL:
        config.update(decoder_conf={**(config.get("decoder_conf") or {}), **options}, model="sigmel_asr")
        return OURS.within("decoder.lm.")
    if encoder == "omni_router":
        stack = OURS.within(ENCODER)
    elif encoder in ROUTED:
        activation = conf.get(ROUTED[encoder].activation, "swish")
        if activation not in ACTIVATIONS:
            raise SigmelError(f"{ROUTED[encoder].activation}: '{activation}' is none of {', '.join(ACTIVATIONS)}")
        stack, encoder = ROUTED_STACK, ROUTED[encoder].name
    else:
        raise SigmelError(f"encoder: {encoder} cannot be upcycled; only omni_router, {', '.join(ROUTED)} can")
    config.update(encoder=encoder, encoder_conf={**conf, **options}, model="sigmel_asr")
    return stack


# --- The words of ESPnet's options


def streams(encoder: str) -> bool:
    """Whether a registered encoder has the options that have other names in ESPnet."""
    return set(inspect.signature(registry.get("encoder", encoder)).parameters) >= CORE


def encoder_from_espnet(encoder: str, conf: Mapping[str, Any]) -> dict[str, Any]:
    """Our options of a registered encoder, from its `encoder_conf`.

    Raises:
        SigmelError: our words in place of ESPnet's, only some of ESPnet's, or values that contradict each other.
    """
    options = dict(conf)
    if not streams(encoder):
        return options
    for name in CORE & set(options):
        raise SigmelError(
            f"{name}: in ESPnet, say hop_size (chunk_size), block_size (left_context + chunk_size; null is all) "
            "and look_ahead: 0"
        )
    missing = [name for name in STREAMING if name not in options]
    if len(missing) == len(STREAMING):
        return options
    if missing:
        raise SigmelError(f"encoder_conf lacks {', '.join(missing)}: give all of {', '.join(STREAMING)}, or none")
    block, hop, ahead = (options.pop(name) for name in STREAMING)
    if ahead != 0:
        raise SigmelError(f"look_ahead: {ahead} must be 0: a frame sees all of its own hop, and nothing after it")
    if block is not None and (hop is None or block < hop):
        raise SigmelError(f"block_size: {block} must be at least hop_size: {hop}, or null for all that came before")
    return options | {"chunk_size": hop, "left_context": None if block is None else block - hop}


def encoder_to_espnet(encoder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The `encoder_conf` of our options: the inverse of `encoder_from_espnet`."""
    conf = {name: value for name, value in options.items() if name not in CORE}
    hop, left = options.get("chunk_size"), options.get("left_context")
    if not streams(encoder) or hop is None:
        return conf
    return conf | {"block_size": None if left is None else left + hop, "hop_size": hop, "look_ahead": 0}


def espnet_signature(encoder: str) -> inspect.Signature:
    """The signature of a registered encoder in ESPnet's words, for ESPnet's `--print_config`."""
    signature = inspect.signature(registry.get("encoder", encoder))
    if not streams(encoder):
        return signature
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, default=default) for name, default in STREAMING.items()]
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in CORE] + added)
