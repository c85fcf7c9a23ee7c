"""``sigmel upcycle``: a dense recogniser becomes one with routed experts that gives the same outputs at first.

What the host saved is edited as it lies on the disk: the encoder's section of the configuration and its feed-forwards,
nothing else, so all other parts of a model are kept, whatever they are, and no host is needed. See
`sigmel.models.upcycling` for what becomes of the parameters.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel.checkpoints.espnet_options import ACTIVATIONS, ROUTED
from sigmel.checkpoints.recogniser import NEMO_ENCODER, readable
from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path
from sigmel.models.upcycling import OURS, UPCYCLED, Stack, upcycle

Config = dict[str, Any]
State = dict[str, Tensor]
Change = Callable[[Config, State], State]  # changes the configuration in place, and returns the new parameters

OPTIONS = ("routing", "experts", "top_k", "expert_layers")  # of the encoder
OURS_IN_HOST = OURS._replace(feed_forward=f"encoder.core.{OURS.feed_forward}", routers=f"encoder.core.{OURS.routers}")
NEMO_CONFORMERS = (
    "nemo.collections.asr.modules.ConformerEncoder",
    "nemo.collections.asr.modules.conformer_encoder.ConformerEncoder",
    "sigmel.hosts.nemo.OmniRouterConformerEncoder",
)
NEMO_CONFORMER = Stack("encoder.layers.{}.feed_forward2.", ("linear1", "linear2"), "experts.", "encoder.routers.")
ESPNET_LAYERS = Stack("encoder.encoders.{}.feed_forward.", ("w_1", "w_2"), "experts.", "encoder.routers.")


def nemo_encoder(config: Config, options: Mapping[str, Any]) -> Stack:
    """Write the options of experts into the configuration of a NeMo model; say what its parameters are called.

    Raises:
        SigmelError: its encoder is none that can be upcycled.
    """
    encoder = config.get("encoder") or {}
    target = encoder.get("_target_")
    if target == NEMO_ENCODER and encoder.get("encoder") == "omni_router":
        encoder["conf"] = {**(encoder.get("conf") or {}), **options}
        return OURS_IN_HOST
    if target == "sigmel.hosts.nemo.OmniRouterEncoder":
        encoder.update(options)
        return OURS_IN_HOST
    if target in NEMO_CONFORMERS:
        encoder.update(options, _target_=NEMO_CONFORMERS[-1])
        return NEMO_CONFORMER
    name = encoder.get("encoder", target)
    raise SigmelError(f"encoder: {name} cannot be upcycled; only NeMo's ConformerEncoder and sigmel's own can")


def espnet_encoder(config: Config, options: Mapping[str, Any]) -> Stack:
    """The same for an ESPnet recogniser; its model becomes the one that adds the load-balancing loss.

    Raises:
        SigmelError: its encoder, or its model, is none that can be upcycled.
    """
    model, encoder, conf = config.get("model") or "espnet", config.get("encoder"), config.get("encoder_conf") or {}
    if model not in ("espnet", "sigmel_asr"):
        raise SigmelError(f"model: {model} has no place for the load-balancing loss; only espnet and sigmel_asr have")
    if encoder == "omni_router":
        stack = OURS_IN_HOST
    elif encoder in ROUTED:
        activation = conf.get(ROUTED[encoder].activation, "swish")
        if activation not in ACTIVATIONS:
            raise SigmelError(f"{ROUTED[encoder].activation}: '{activation}' is none of {', '.join(ACTIVATIONS)}")
        stack, encoder = ESPNET_LAYERS, ROUTED[encoder].name
    else:
        raise SigmelError(f"encoder: {encoder} cannot be upcycled; only omni_router, {', '.join(ROUTED)} can")
    config.update(encoder=encoder, encoder_conf={**conf, **options}, model="sigmel_asr")
    return stack


def edit_nemo(source: Path, output: Path, change: Change) -> None:
    """Copy a ``.nemo`` file with its configuration and parameters changed."""
    with readable(source, "a .nemo file"), tarfile.open(source) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        contents = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
        names = {PurePosixPath(name).name: name for name in contents}
        config, state = _loaded(contents, names["model_config.yaml"], names["model_weights.ckpt"])
    contents |= _changed(config, change(config, state), names["model_config.yaml"], names["model_weights.ckpt"])
    with atomic_path(output) as temporary, tarfile.open(temporary, "w") as archive:
        for member in members:
            member.size = len(contents[member.name])
            archive.addfile(member, io.BytesIO(contents[member.name]))


def edit_packed(source: Path, output: Path, change: Change) -> None:
    """Copy an archive packed by ESPnet with its configuration and parameters changed."""
    with readable(source, "an archive of an ESPnet recogniser"), zipfile.ZipFile(source) as archive:
        contents = {member.filename: archive.read(member) for member in archive.infolist() if not member.is_dir()}
        meta = yaml.safe_load(contents["meta.yaml"])
        names = meta["yaml_files"]["asr_train_config"], meta["files"]["asr_model_file"]
        config, state = _loaded(contents, *names)
    contents |= _changed(config, change(config, state), *names)
    with atomic_path(output) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def edit_unpacked(source: Path, output: Path, change: Change) -> None:
    """Copy a ``.pth`` and the ``config.yaml`` beside it, changed, to a folder of their own.

    Raises:
        SigmelError: there is a ``config.yaml`` already.
    """
    if (output.parent / "config.yaml").exists():
        raise SigmelError(f"{output.parent} has a config.yaml already; name a file in another folder")
    with readable(source, "an ESPnet model with config.yaml beside it"):
        contents = {path.name: path.read_bytes() for path in (source, source.parent / "config.yaml")}
        config, state = _loaded(contents, "config.yaml", source.name)
    for name, content in _changed(config, change(config, state), "config.yaml", output.name).items():
        with atomic_path(output.parent / name) as temporary:
            temporary.write_bytes(content)


EDITORS = {
    ".nemo": (nemo_encoder, edit_nemo),
    ".zip": (espnet_encoder, edit_packed),
    ".pth": (espnet_encoder, edit_unpacked),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel upcycle``."""
    parser.description = (
        f"{parser.description} The encoder is sigmel's own with routing: dense, or one of NeMo or ESPnet. Each "
        "expert becomes a copy of the layer's feed-forward (of two, the second), so that the outputs stay the same "
        "until the model is trained on: see docs/upcycling.md."
    )
    parser.add_argument(
        "source", type=Path, help="NeMo's .nemo, ESPnet's packed .zip, or a .pth beside its config.yaml"
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="a new file of the same kind; a .pth gets its config.yaml"
    )
    parser.add_argument("--routing", default="omni", help="switch, omni or path:<k>; default: %(default)s")
    parser.add_argument("--experts", type=int, default=4, help="of a layer; default: %(default)s")
    parser.add_argument("--top-k", type=int, default=1, help="experts a frame is sent to; default: %(default)s")
    parser.add_argument("--expert-layers", default="all", help="all, every:<n> or 4x2-4x4; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the new routers; default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel upcycle``."""
    if args.source.suffix not in EDITORS:
        raise SigmelError(f"{args.source}: the suffix must be one of {', '.join(EDITORS)}")
    if args.output.suffix != args.source.suffix:
        raise SigmelError(f"--output {args.output}: the suffix must be {args.source.suffix}, that of the dense model")
    if not args.source.is_file():
        raise SigmelError(f"{args.source}: no such file")
    if args.output.exists():
        raise SigmelError(f"{args.output} exists already; remove it, or take another name")
    options = {name: getattr(args, name) for name in OPTIONS}
    encoder_of, edit = EDITORS[args.source.suffix]

    def change(config: Config, state: State) -> State:
        try:
            stack = encoder_of(config, options | UPCYCLED)
            return upcycle(state, stack, **options, seed=args.seed)
        except SigmelError as error:
            raise SigmelError(f"{args.source}: {error}") from error

    edit(args.source, args.output, change)
    print(f"{args.output}: {args.experts} experts, {args.routing}, from {args.source}")
    return 0


def _loaded(contents: Mapping[str, bytes], config: str, weights: str) -> tuple[Config, State]:
    state = torch.load(io.BytesIO(contents[weights]), map_location="cpu", weights_only=True)
    return yaml.safe_load(contents[config]), state


def _changed(changed: Config, state: State, config: str, weights: str) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({name: value.contiguous() for name, value in state.items()}, buffer)
    return {
        config: yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).encode(),
        weights: buffer.getvalue(),
    }
