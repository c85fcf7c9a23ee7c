"""A model file of a host, taken apart: the configuration, the parameters, and all other files as they are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel.errors import SigmelError

Config = dict[str, Any]
State = dict[str, Tensor]


@dataclass
class Checkpoint:
    """What a host saved of a model.

    Attributes:
        config: the host's configuration of the model.
        state: parameters, by the host's names.
        files: contents of all other files that the host packed with these two, by name.
    """

    config: Config
    state: State
    files: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn any error of the block, which reads a model file, into one that names the file.

    Args:
        path: the file.
        kind: what the file should be, for the message.

    Raises:
        SigmelError: the file does not exist, or the block failed.
    """
    if not path.is_file():
        raise SigmelError(f"{path}: no such file")
    try:
        yield
    except SigmelError:
        raise
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{path}: not {kind} that can be read ({type(error).__name__}: {error})") from error


def load_state(content: bytes) -> State:
    """Parameters from the bytes of a file of torch; a pickle that would run code is refused."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def dump_state(state: Mapping[str, Tensor]) -> bytes:
    """Parameters as the bytes of a file of torch."""
    buffer = io.BytesIO()
    torch.save({name: value.detach().contiguous() for name, value in state.items()}, buffer)
    return buffer.getvalue()


def dump_config(config: Config) -> bytes:
    """A configuration as YAML."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
