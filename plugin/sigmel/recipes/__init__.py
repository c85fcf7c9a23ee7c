"""The workshop: data, training, decoding and speaking, as recipes under egs/ and the verbs of `sigmel` use them."""

from __future__ import annotations

import importlib
from types import ModuleType


def program(host: str, name: str) -> ModuleType:
    """The module of a host that does something: "train", "transcribe" or "speak".

    Raises:
        SigmelError: the host is not installed.
    """
    importlib.import_module(f"sigmel.hosts.{host}")  # which says so
    return importlib.import_module(f"sigmel.recipes.{host}.{name}")
