"""Errors that the user can mend, and the exit status of a command that meets one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


class SigmelError(ValueError):
    """Input from outside that cannot be used; the message says what is wrong, where, and what would be right.

    Commands print it as one line and exit with status 2, without a traceback.
    """


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
