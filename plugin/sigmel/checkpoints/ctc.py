"""A CTC recogniser that either host can have: log-mel features, one of our encoders, one linear layer."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sigmel.checkpoints.checkpoint import State
from sigmel.errors import SigmelError
from sigmel.features.log_mel import LogMel

BLANK = "<blank>"
END = "<sos/eos>"  # a token of every ESPnet model, which CTC never emits
FRONTEND = {name: option.default for name, option in inspect.signature(LogMel).parameters.items()}
ENCODER = "encoder.core."  # prefix of the encoder's parameters in both hosts


class NeedsHost(SigmelError):
    """A model of a kind that only its host can run."""


@dataclass
class CTCModel:
    """A CTC recogniser as plain data, free of any host.

    The same audio gives the same log-probabilities in every host that `write_ctc` writes it for.

    Attributes:
        frontend: options of `sigmel.features.log_mel.LogMel`, all of them.
        encoder: name of the encoder in the registry.
        options: the encoder's options, without `input_size`.
        state: the encoder's parameters.
        weight, bias: (1 + V, D) and (1 + V,), the linear layer; blank is the first row.
        pieces: the V tokens.
        tokenizer: a SentencePiece model of these pieces, which may lack `END`.
    """

    frontend: dict[str, Any]
    encoder: str
    options: dict[str, Any]
    state: State
    weight: Tensor
    bias: Tensor
    pieces: list[str]
    tokenizer: bytes


def require(path: Path, option: str, value: Any, wanted: tuple[Any, ...]) -> None:
    """Raise `NeedsHost` if an option in a model file has a value that only the host can deal with."""
    if value not in wanted:
        choices = " or ".join(map(repr, wanted))
        raise NeedsHost(f"{path}: {option} is {value!r}; only {choices} can be read without its host")


def encoder_state(state: State) -> State:
    """The encoder's parameters under its own names, out of those of a host's model."""
    return {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
