"""NeMo's `.nemo`: a tar archive of a configuration, parameters and artifacts such as a tokenizer."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from sentencepiece import SentencePieceProcessor

from sigmel.checkpoints.checkpoint import ENCODER, END, FRONTEND, Checkpoint, CTCModel, require
from sigmel.errors import SigmelError, reading
from sigmel.features.log_mel import LogMel
from sigmel.files.atomic import atomic_path
from sigmel.models.upcycling import OURS, Stack

KIND = "a .nemo file that can be read"
CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"

# Values of `target` and `_target_`.
CTC = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
HYBRID = "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"
PREPROCESSOR = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
REGISTERED_ENCODER = "sigmel.hosts.nemo.RegisteredEncoder"
OMNI_ROUTER = "sigmel.hosts.nemo.OmniRouterEncoder"
LANGUAGE_MODEL = "sigmel.hosts.nemo.lm.DMelLMModel"
ROUTED_CONFORMER = "sigmel.hosts.nemo.OmniRouterConformerEncoder"
CONFORMERS = (
    "nemo.collections.asr.modules.ConformerEncoder",
    "nemo.collections.asr.modules.conformer_encoder.ConformerEncoder",
    ROUTED_CONFORMER,
)
CONFORMER_STACK = Stack("encoder.layers.{}.feed_forward2.", ("linear1", "linear2"), "experts.", "encoder.routers.")

# NeMo's defaults of the preprocessor's options that LogMel has too.
DEFAULTS = FRONTEND | {"window_size": 0.02, "features": 64}
# Options that LogMel lacks, and the values that mean what LogMel does. The encoder masks the padding of a batch.
FIXED = {"lowfreq": 0, "highfreq": None, "log": True, "log_zero_guard_type": "add", "log_zero_guard_value": 2**-24}
FIXED |= {"frame_splicing": 1, "exact_pad": False, "mag_power": 2.0, "mel_norm": "slaney"}


def read(path: Path) -> Checkpoint:
    """Read a `.nemo` file, see `sigmel.checkpoints`."""
    with reading(path, KIND):
        files = _files(path)
        return Checkpoint.parse(files.pop(CONFIG), files.pop(WEIGHTS), files)


def _files(path: Path, names: Collection[str] = ()) -> dict[str, bytes]:
    """The files in an archive by name, or those of `names`; nothing is unpacked to the disk."""
    with tarfile.open(path) as archive:
        members = {str(PurePosixPath(member.name)): member for member in archive if member.isfile()}
        return {
            name: archive.extractfile(member).read()  # type: ignore[union-attr]
            for name, member in members.items()
            if not names or name in names
        }


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write a `.nemo` file, see `sigmel.checkpoints`."""
    files = dict(zip((CONFIG, WEIGHTS), checkpoint.contents(), strict=True)) | checkpoint.files
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mtime = len(content), int(time.time())
            archive.addfile(member, io.BytesIO(content))


def read_ctc(path: Path, hybrid: bool = False) -> CTCModel:
    """Read the CTC recogniser in a `.nemo` file, see `sigmel.checkpoints`."""
    with reading(path, KIND):
        config = yaml.safe_load(_files(path, (CONFIG,))[CONFIG])
        target = config.get("target")
        require("target", target, (CTC, HYBRID) if hybrid else (CTC,))
        frontend, encoder = dict(config["preprocessor"]), dict(config["encoder"])
        require("preprocessor._target_", frontend.pop("_target_"), (PREPROCESSOR,))
        for name, value in FIXED.items():
            require(f"preprocessor.{name}", frontend.get(name, value), (value,))
        if frontend.get("normalize") == "NA":  # NeMo's streaming configurations say so for no normalisation
            frontend["normalize"] = None
        require("preprocessor.normalize", frontend.get("normalize", "per_feature"), ("per_feature", None))
        kind = encoder.pop("_target_")
        require("encoder._target_", kind, (REGISTERED_ENCODER, OMNI_ROUTER))
        encoder.pop("feat_in")
        name, options = "omni_router", encoder
        if kind == REGISTERED_ENCODER:
            name, options = encoder["encoder"], encoder.get("conf") or {}
        checkpoint = read(path)
        prefix, head = "decoder", config["decoder"]
        if target == HYBRID:
            prefix, head = "ctc_decoder", config["aux_ctc"]["decoder"]
        weight, bias = (checkpoint.state[f"{prefix}.decoder_layers.0.{key}"].squeeze(-1) for key in ("weight", "bias"))
        return CTCModel(
            {name: frontend.get(name, default) for name, default in DEFAULTS.items()},
            name,
            options,
            checkpoint.encoder_state(),
            weight.roll(1, 0),  # NeMo's blank is the last
            bias.roll(1, 0),
            list(head["vocabulary"]),
            checkpoint.files[config["tokenizer"]["model_path"].removeprefix("nemo:")],
        )


def write_ctc(model: CTCModel, path: Path) -> None:
    """Write a `.nemo` file that NeMo's `EncDecCTCModelBPE.restore_from` loads, see `sigmel.checkpoints`."""
    front_end = LogMel(**model.frontend)
    state = {f"{ENCODER}{name}": value for name, value in model.state.items()}
    state["preprocessor.featurizer.window"] = front_end.window
    state["preprocessor.featurizer.fb"] = front_end.filters[None]
    state["decoder.decoder_layers.0.weight"] = model.weight.roll(-1, 0)[..., None]
    state["decoder.decoder_layers.0.bias"] = model.bias.roll(-1, 0)
    features = front_end.output_size()
    config = {
        "sample_rate": model.frontend["sample_rate"],
        "preprocessor": {"_target_": PREPROCESSOR, "pad_to": 0, **model.frontend},
        "encoder": {
            "_target_": REGISTERED_ENCODER,
            "encoder": model.encoder,
            "feat_in": features,
            "conf": model.options,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": int(model.weight.shape[1]),
            "num_classes": len(model.pieces),
            "vocabulary": model.pieces,
        },
        "tokenizer": {
            "dir": "",
            "type": "bpe",
            "model_path": "nemo:tokenizer.model",
            "vocab_path": "nemo:vocab.txt",
            "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
        },
        "target": CTC,
    }
    files = {
        "tokenizer.model": with_pieces(model.tokenizer, model.pieces),
        "vocab.txt": "".join(f"{piece}\n" for piece in model.pieces).encode(),
        "tokenizer.vocab": "".join(f"{piece}\t0\n" for piece in model.pieces).encode(),
    }
    write(Checkpoint(config, state, files), path)


def with_pieces(tokenizer: bytes, pieces: list[str]) -> bytes:
    """A SentencePiece model of exactly these pieces; a missing `END` is added as a control piece.

    Raises:
        SigmelError: the model has other pieces.
    """
    known = SentencePieceProcessor(model_proto=tokenizer)
    present = [known.id_to_piece(number) for number in range(known.get_piece_size())]
    if [*present, END] == pieces:
        # A SentencePiece model is a protocol buffer, whose first field is the list of pieces. Appended is one element
        # more: a message of a string (field 1) and a type (field 3), 3 for control pieces.
        piece = b"\x0a" + bytes([len(END)]) + END.encode() + b"\x18\x03"
        return tokenizer + b"\x0a" + bytes([len(piece)]) + piece
    if present != pieces:
        raise SigmelError(f"the tokenizer has {len(present)} pieces, which are not the model's {len(pieces)} tokens")
    return tokenizer


def add_experts(config: dict[str, Any], options: Mapping[str, Any]) -> Stack:
    """Write the options of experts into the configuration of a model, see `sigmel.checkpoints`."""
    if config.get("target") == LANGUAGE_MODEL:
        config["lm"].update(options)
        return OURS.within("lm.")
    encoder = config.get("encoder") or {}
    target = encoder.get("_target_")
    if target == REGISTERED_ENCODER and encoder.get("encoder") == "omni_router":
        encoder["conf"] = {**(encoder.get("conf") or {}), **options}
        return OURS.within(ENCODER)
    if target == OMNI_ROUTER:
        encoder.update(options)
        return OURS.within(ENCODER)
    if target in CONFORMERS:
        encoder.update(options, _target_=ROUTED_CONFORMER)
        return CONFORMER_STACK
    name = encoder.get("encoder", target)
    raise SigmelError(f"encoder: {name} cannot be upcycled; only NeMo's ConformerEncoder and sigmel's models can")
