"""Files and folders that are either complete or absent.

A stage that is killed half-way must never leave something that a later stage takes for finished work. So every file
and folder is written under a temporary name beside its destination and renamed once it is complete.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sigmel.errors import SigmelError

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write, which is renamed to `path` on success and removed on any error.

    The temporary file lies in the same folder (which is created), keeps the suffix of `path` (so that libraries
    which choose a format by suffix work) and is flushed to the disk before the rename. An existing file is replaced
    in one step.

    Args:
        path: the file to write.

    Yields:
        The path to write to; nothing exists there yet.

    Raises:
        SigmelError: the disk is full; the message names `path`.
        FileNotFoundError: nothing was written to the temporary path.
    """
    path = Path(path)
    with _disk_full_is_clear(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        _flush(path.parent)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a folder against other processes that lock it too, while a file in it is read, changed and written back."""
    import fcntl  # not on Windows; only recipes lock, and recipes need bash

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the empty folder `<path>.tmp` to fill; rename it to `path` on success, remove it on any error.

    What an earlier, killed run left in `<path>.tmp` is removed first.

    Args:
        path: the folder to build; it must not exist yet.

    Yields:
        The folder to fill.

    Raises:
        FileExistsError: `path` exists.
        SigmelError: the disk is full; the message names `path`.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists already; remove it to build it again")
    temporary = path.with_name(path.name + ".tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    with _disk_full_is_clear(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                _flush(file)
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _flush(path.parent)


@contextmanager
def _disk_full_is_clear(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise SigmelError(f"{path}: no space left on the disk; free some and run again") from error
        raise


def _flush(path: Path) -> None:
    """Flush a file or a folder's list of names to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
