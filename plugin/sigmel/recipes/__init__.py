"""The workshop: data, training, decoding and speaking, as recipes under egs/ and the verbs of `sigmel` use them."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from types import ModuleType


def program(host: str, name: str) -> ModuleType:
    """The module of a host that does something: "train", "transcribe" or "speak".

    Raises:
        SigmelError: the host is not installed.
    """
    importlib.import_module(f"sigmel.hosts.{host}")  # which says so
    return importlib.import_module(f"sigmel.recipes.{host}.{name}")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of at least `least`."""

    def number(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least {least}")
        return int(text)

    return number
