"""Options that ESPnet calls otherwise than we do; imports nothing of ESPnet.

Its streaming inference reads ``block_size``, ``hop_size`` and ``look_ahead`` in the configuration of an encoder, so an
encoder that streams has these three in ESPnet in place of ``chunk_size`` and ``left_context``: a block is the frames
that are seen at once, a hop those of them that are new.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from sigmel import registry
from sigmel.errors import SigmelError

CORE = {"chunk_size", "left_context"}
STREAMING: dict[str, int | None] = {"block_size": None, "hop_size": None, "look_ahead": 0}  # and their defaults


class RoutedEncoder(NamedTuple):
    """What one of ESPnet's own encoders is called with routed experts, and its option for their activation."""

    name: str
    activation: str


ROUTED = {
    "conformer": RoutedEncoder("omni_router_conformer", "activation_type"),
    "e_branchformer": RoutedEncoder("omni_router_e_branchformer", "ffn_activation_type"),
}
ACTIVATIONS = {"swish": "silu", "relu": "relu"}  # what that option may be, and what experts call it


def streams(encoder: str) -> bool:
    """Whether a registered encoder has the options that ESPnet calls otherwise."""
    return set(inspect.signature(registry.get("encoder", encoder)).parameters) >= CORE


def encoder_from_espnet(encoder: str, conf: Mapping[str, Any]) -> dict[str, Any]:
    """Our options of a registered encoder, from its ``encoder_conf``.

    Raises:
        SigmelError: ours are given in place of ESPnet's, or only some of these, or they contradict each other.
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
    """The ``encoder_conf`` of our options: the inverse of `encoder_from_espnet`."""
    conf = {name: value for name, value in options.items() if name not in CORE}
    hop, left = options.get("chunk_size"), options.get("left_context")
    if not streams(encoder) or hop is None:
        return conf
    return conf | {"block_size": None if left is None else left + hop, "hop_size": hop, "look_ahead": 0}


def espnet_signature(encoder: str) -> inspect.Signature:
    """The signature of a registered encoder in ESPnet's words, which its ``--print_config`` shows."""
    signature = inspect.signature(registry.get("encoder", encoder))
    if not streams(encoder):
        return signature
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter(name, keyword, default=default) for name, default in STREAMING.items()]
    return signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in CORE] + added)
