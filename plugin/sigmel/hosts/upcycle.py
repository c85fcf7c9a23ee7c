"""``sigmel upcycle``: a dense recogniser becomes one with routed experts that gives the same outputs at first.

What the host saved is edited as it lies on the disk: the encoder's section of the configuration and its feed-forwards,
nothing else, so all other parts of a model are kept, whatever they are, and no host is needed. See
`sigmel.models.upcycling` for what becomes of the parameters.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel.data.atomic import atomic_path
from sigmel.errors import SigmelError
from sigmel.models.checkpoint import NEMO_ENCODER, readable
from sigmel.models.upcycling import OURS, Stack, upcycle

Config = dict[str, Any]
State = dict[str, Tensor]
Change = Callable[[Config, State], State]  # changes the configuration in place, and returns the new parameters

OPTIONS = ("routing", "experts", "top_k", "expert_layers")  # of the encoder
OURS_IN_HOST = OURS._replace(feed_forward=f"encoder.core.{OURS.feed_forward}", routers=f"encoder.core.{OURS.routers}")
NEMO_CONFORMER = Stack("encoder.layers.{}.feed_forward2.", ("linear1", "linear2"), "experts.", "encoder.routers.")


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
    if str(target).rpartition(".")[2] in ("ConformerEncoder", "OmniRouterConformerEncoder"):
        encoder.update(options, _target_="sigmel.hosts.nemo.OmniRouterConformerEncoder")
        return NEMO_CONFORMER
    name = encoder.get("encoder", target)
    raise SigmelError(f"encoder: {name} cannot be upcycled; only NeMo's ConformerEncoder and sigmel's own can")


def edit_nemo(source: Path, output: Path, change: Change) -> None:
    """Copy a ``.nemo`` file with its configuration and parameters changed."""
    with readable(source, "a .nemo file"), tarfile.open(source) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        contents = {member.name: archive.extractfile(member).read() for member in members}  # type: ignore[union-attr]
        names = {PurePosixPath(name).name: name for name in contents}
        config = yaml.safe_load(contents[names["model_config.yaml"]])
        state = _loaded(contents.pop(names["model_weights.ckpt"]))
    state = change(config, state)
    contents[names["model_config.yaml"]] = _dumped(config)
    with atomic_path(output) as temporary, tarfile.open(temporary, "w") as archive:
        for member in members:
            content = contents[member.name] if member.name in contents else _saved(state)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


EDITORS = {".nemo": (nemo_encoder, edit_nemo)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel upcycle``."""
    parser.description = (
        f"{parser.description} Each expert is a copy of the dense feed-forward (of a Conformer, the second), so the "
        "outputs are those of the dense model; train it on to make them differ."
    )
    parser.add_argument("source", type=Path, help="NeMo's .nemo, with sigmel's encoder or NeMo's own Conformer")
    parser.add_argument("--output", type=Path, required=True, help="file to write, of the same kind; must not exist")
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
            stack = encoder_of(config, options | {"normalize_gates": True})
            return upcycle(state, stack, **options, seed=args.seed)
        except SigmelError as error:
            raise SigmelError(f"{args.source}: {error}") from error

    edit(args.source, args.output, change)
    print(f"{args.output}: {args.experts} experts, {args.routing}, from {args.source}")
    return 0


def _loaded(content: bytes) -> State:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _saved(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: value.contiguous() for name, value in state.items()}, buffer)
    return buffer.getvalue()


def _dumped(config: Config) -> bytes:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
