"""What the two hosts' model files have in common: a `Checkpoint` of any model, and a `CTCModel` for either host."""

from __future__ import annotations

import inspect
import io
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import Tensor

from sigmel.errors import SigmelError
from sigmel.features.log_mel import LogMel

BLANK = "<blank>"
END = "<sos/eos>"  # a token of every ESPnet model, which CTC never emits
ENCODER = "encoder.core."  # prefix of the parameters of our encoders in both hosts
FRONTEND = {name: option.default for name, option in inspect.signature(LogMel).parameters.items()}


class NeedsHost(SigmelError):
    """A model of a kind that only its host can run."""


@dataclass
class Checkpoint:
    """What a host saved of a model.

    Attributes:
        config: the host's configuration of the model.
        state: the parameters, by the host's names.
        files: contents of all other files that the host packed with these two, by name.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def parse(cls, config: bytes, state: bytes, files: dict[str, bytes]) -> Checkpoint:
        """Make a checkpoint of the contents of files; a pickle that would run code is refused."""
        parameters = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        return cls(yaml.safe_load(config), parameters, files)

    def contents(self) -> tuple[bytes, bytes]:
        """The contents of the files of the configuration and of the parameters."""
        buffer = io.BytesIO()
        torch.save({name: value.detach().contiguous() for name, value in self.state.items()}, buffer)
        return yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True).encode(), buffer.getvalue()

    def encoder_state(self) -> dict[str, Tensor]:
        """The parameters of our encoder, by its own names."""
        return {name.removeprefix(ENCODER): value for name, value in self.state.items() if name.startswith(ENCODER)}


@dataclass
class CTCModel:
    """A CTC recogniser as plain data, free of any host: log-mel features, one of our encoders, one linear layer.

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
    state: dict[str, Tensor]
    weight: Tensor
    bias: Tensor
    pieces: list[str]
    tokenizer: bytes


def require(option: str, value: Any, wanted: tuple[Any, ...]) -> None:
    """Raise `NeedsHost` if an option in a model file has a value that only the host can deal with."""
    if value not in wanted:
        choices = " or ".join(map(repr, wanted))
        raise NeedsHost(f"{option} is {value!r}; only {choices} can be read without its host")
