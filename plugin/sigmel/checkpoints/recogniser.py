"""A CTC recogniser as plain data, read from what a host saved, without that host."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel import registry
from sigmel.checkpoints.espnet_options import encoder_from_espnet
from sigmel.errors import SigmelError
from sigmel.files.audio import parse_sample_rate

END = "<sos/eos>"  # a token of every ESPnet model, which CTC never emits
NEMO_MODEL = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
NEMO_HYBRID = "nemo.collections.asr.models.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel"
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


class NeedsHost(SigmelError):
    """A model of a kind that only its host can run."""


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


def read_nemo(path: Path, hybrid: bool = False) -> Recogniser:
    """Read a ``.nemo`` file.

    Args:
        path: of the file.
        hybrid: take the CTC part of a model with a transducer, too, which is refused otherwise.

    Raises:
        NeedsHost: it is no CTC model with our encoder and NeMo's log-mel front end.
        SigmelError: it is no such file.
    """
    with readable(path, "a .nemo file"), tarfile.open(path) as archive:
        files = {PurePosixPath(member.name).name: member for member in archive.getmembers() if member.isfile()}

        def read(name: str) -> bytes:
            content = archive.extractfile(files[name])
            assert content is not None  # it is a file
            return content.read()

        config = yaml.safe_load(read("model_config.yaml"))
        target = config.get("target")
        _require(path, "target", target, (NEMO_MODEL, NEMO_HYBRID) if hybrid else (NEMO_MODEL,))
        state = torch.load(io.BytesIO(read("model_weights.ckpt")), map_location="cpu", weights_only=True)
        tokenizer = read(config["tokenizer"]["model_path"].removeprefix("nemo:"))
    frontend, encoder = dict(config["preprocessor"]), dict(config["encoder"])
    _require(path, "preprocessor._target_", frontend.pop("_target_"), (NEMO_PREPROCESSOR,))
    for name, value in FIXED.items():
        _require(path, f"preprocessor.{name}", frontend.get(name, value), (value,))
    if frontend.get("normalize") == "NA":  # what NeMo's streaming configurations say for none
        frontend["normalize"] = None
    _require(path, "preprocessor.normalize", frontend.get("normalize", "per_feature"), ("per_feature", None))
    kind = encoder.pop("_target_")
    _require(path, "encoder._target_", kind, (NEMO_ENCODER, "sigmel.hosts.nemo.OmniRouterEncoder"))
    encoder.pop("feat_in")
    name, options = "omni_router", encoder
    if kind == NEMO_ENCODER:
        name, options = encoder["encoder"], encoder.get("conf") or {}
    prefix, ctc = "decoder", config["decoder"]
    if target == NEMO_HYBRID:
        prefix, ctc = "ctc_decoder", config["aux_ctc"]["decoder"]
    weight, bias = (state[f"{prefix}.decoder_layers.0.{key}"].squeeze(-1) for key in ("weight", "bias"))
    return Recogniser(
        {name: frontend.get(name, default) for name, default in FRONTEND.items()},
        name,
        options,
        _part(state, "encoder.core."),
        weight.roll(1, 0),  # NeMo's blank is the last
        bias.roll(1, 0),
        list(ctc["vocabulary"]),
        tokenizer,
    )


def read_espnet(path: Path, hybrid: bool = False) -> Recogniser:
    """Read an archive packed by ESPnet (``.zip``), or a ``.pth`` with its ``config.yaml`` beside it.

    Args:
        path: of the file.
        hybrid: take the CTC part of a model with a decoder, too, which is refused otherwise.

    Raises:
        NeedsHost: it is no CTC model with our encoder and ``frontend: log_mel``.
        SigmelError: it is no such file.
    """
    with readable(path, "an ESPnet model"):
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
            tokenizer = (beside if beside.is_file() else bpemodel).read_bytes() if bpemodel.name else b""
        state = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    for key, wanted in {"frontend": "log_mel", "normalize": None, "token_type": "bpe"}.items():
        _require(path, key, config.get(key), (wanted,))
    _require(path, "encoder", config.get("encoder"), tuple(registry.names("encoder")))
    if not hybrid:
        _require(path, "decoder", config.get("decoder"), (None,))
    if "ctc.ctc_lo.weight" not in state:
        raise NeedsHost(f"{path}: it was trained without CTC (ctc_weight: 0)")
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


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Say of any error in here that the file is not of this kind, and why."""
    try:
        yield
    except SigmelError:
        raise
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{path}: not {kind} that can be read ({type(error).__name__}: {error})") from error


def _require(path: Path, key: str, value: Any, wanted: tuple[Any, ...]) -> None:
    if value not in wanted:
        those = " or ".join(map(repr, wanted))
        raise NeedsHost(f"{path}: {key} is {value!r}; only {those} can be read without its host")


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


READERS = {".nemo": read_nemo, ".zip": read_espnet, ".pth": read_espnet}
