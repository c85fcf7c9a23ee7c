"""Which form of an op serves a call."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from sigmel.ops.native import warn_once


def serving(name: str, instead: str, *arguments: object) -> ModuleType | None:
    """The module `name`; None, after one warning, where it cannot serve these arguments.

    It is imported here, since Triton may be missing, and has `unsupported(*arguments)`, which says what is in the way.
    `instead` tells what the op does then.
    """
    try:
        module = import_module(name)
        problem = module.unsupported(*arguments)
    except ImportError as error:
        problem = f"{error.name} is not installed"
    if problem:
        warn_once(f"{instead}: {problem}")
        return None
    return module
