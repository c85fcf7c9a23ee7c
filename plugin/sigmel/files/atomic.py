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
def locked(folder: str | os.PathLike[str], wait: bool = True) -> Iterator[None]:
    """Hold a folder against other processes that lock it too; Windows has no such locks.

    Args:
        folder: the folder.
        wait: wait for a process that holds the folder. Default: True.

    Raises:
        SigmelError: a process holds the folder, and `wait` is False.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise SigmelError(f"{folder}: another process is at work there; wait until it ends, or stop it") from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the empty folder `<path>.tmp` to fill, which is renamed to `path` on success and removed on any error.

    A folder `<path>.tmp` of an earlier, killed run is emptied first.

    Args:
        path: the folder to build; it must not exist yet.

    Yields:
        The folder to fill.

    Raises:
        FileExistsError: `path` exists.
        SigmelError: another process is building the folder, or the disk is full; the message names `path`.
    """
    path = Path(path)
    exists = FileExistsError(f"{path} exists already; remove it to build it again")
    if path.exists():
        raise exists
    temporary = path.with_name(path.name + ".tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    with _disk_full_is_clear(path), locked(temporary, wait=False):
        if path.exists():  # another process has just made it
            raise exists
        try:
            for left in temporary.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
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
