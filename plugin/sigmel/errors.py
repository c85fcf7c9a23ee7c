"""Errors that the user can mend, and the exit status of a command that meets one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any


class SigmelError(ValueError):
    """Input from outside that cannot be used; the message says what is wrong, where, and what would be right.

    Commands print it as one line and exit with status 2, without a traceback.
    """


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn any error of the block, which reads a file, into a SigmelError that names the file.

    A SigmelError keeps its class and its message, which gets the name of the file in front if it lacks the name.

    Args:
        path: the file; it must exist.
        kind: what the file should be, such as "a .nemo file that can be read", for the message of other errors.
    """
    if not path.is_file():
        raise SigmelError(f"{path}: no such file")
    try:
        yield
    except SigmelError as error:
        if str(error).startswith(f"{path}:"):
            raise
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{path}: not {kind} ({type(error).__name__}: {error})") from error


def optional_library(module: str, use: str, install: str) -> Any:
    """Import a library that sigmel needs for one use only.

    Raises:
        SigmelError: the library is not installed; the message names the use and says how to install the library.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SigmelError(f"{use} {module.partition('.')[0]}: {install}") from error


def exit_status(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit status.

    That is the command's own (0: done, 1: done, but something was left out or found wrong), 2 after one line about an
    error, 130 after Ctrl-C, and 141 if the reader of the output is gone, as in `sigmel list | head -1`.

    Args:
        command: returns its status; `None` counts as 0.
    """
    try:
        status = command() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (SigmelError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing half-made was kept", file=sys.stderr)
        return 130
