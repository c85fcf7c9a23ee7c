"""dMel archives: files of many utterances, 1.6 kB a second, mapped into memory for reading.

A file holds, one after the other::

    magic, 8 bytes          b"dMel\\r\\n\\x1a\\x01"; the last byte is the version
    header, length and JSON {"tokenizer": the settings of the DMelTokenizer, "packed": bool}
    ids                     (frames, channels) of all utterances, a byte each, or half a byte if packed
    index, length and JSON  rows in the order of the utterances: {"id": ..., "frames": ..., and what else is known}
    position of the index, 8 bytes

Numbers are little-endian uint64. Of two ids in a byte, the even channel's is in the low half. Special frames are not
kept, since the index says where an utterance begins and ends. A member of a tar file is an archive of one utterance.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path

MAGIC = b"dMel\r\n\x1a\x01"
_NUMBER = struct.Struct("<Q")


class DMelArchiveError(SigmelError):
    """A file that is no dMel archive, is cut off, or was made with other settings; the message names the file."""


class DMelArchive(Sequence[np.ndarray]):
    """The utterances of a file, mapped into memory: only the utterances that are asked for are read.

    Args:
        source: a path, or the bytes of a file.
        tokenizer: settings that the file must have been made with, as a `DMelTokenizer`'s `config`. Default: any.

    Attributes:
        tokenizer: settings of the `DMelTokenizer` that made the ids: `DMelTokenizer(**archive.tokenizer)`.
        rows: of each utterance `{"id": str, "frames": int}` and what else was written with the utterance.

    Raises:
        DMelArchiveError: the file cannot be read, or was made with other settings.
    """

    def __init__(self, source: str | os.PathLike[str] | bytes, tokenizer: Mapping[str, Any] | None = None):
        self.name = "dMel archive" if isinstance(source, bytes) else str(source)
        self._bytes = source if isinstance(source, bytes) else _mapped(Path(source))
        magic = self._bytes[: len(MAGIC)]
        if magic[:-1] != MAGIC[:-1] or len(magic) < len(MAGIC):
            raise DMelArchiveError(f"{self.name}: not a dMel archive")
        if magic != MAGIC:
            raise DMelArchiveError(f"{self.name}: of version {magic[-1]}, which this sigmel cannot read")
        try:
            header, first = self._json(len(MAGIC))
            at = _NUMBER.unpack_from(self._bytes, len(self._bytes) - _NUMBER.size)[0]
            self.rows, end = self._json(at)
            self.tokenizer, self._packed = header["tokenizer"], header["packed"]
            channels = self.tokenizer["channels"]
            frames = np.cumsum([0, *(row["frames"] for row in self.rows)], dtype=np.int64)
        except (struct.error, OverflowError, ValueError, KeyError, TypeError) as error:
            raise DMelArchiveError(f"{self.name}: cut off or damaged; make it again") from error
        width = (channels + 1) // 2 if self._packed else channels
        if end + _NUMBER.size != len(self._bytes) or first + int(frames[-1]) * width != at:
            raise DMelArchiveError(f"{self.name}: cut off or damaged; make it again")
        if tokenizer is not None:
            check_same_settings(self.name, self.tokenizer, tokenizer)
        self._frames, self._channels = frames, channels
        self._ids = np.frombuffer(self._bytes, np.uint8, int(frames[-1]) * width, first).reshape(-1, width)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: int | str) -> np.ndarray:  # type: ignore[override]
        """(T, C) uint8 ids of the utterance with this number or this id."""
        return self.read(which)

    def read(self, which: int | str, first: int = 0, last: int | None = None) -> np.ndarray:
        """(t, C) uint8 ids of the frames `first:last` of an utterance.

        Raises:
            KeyError, IndexError: there is no such utterance.
        """
        number = self._numbers[which] if isinstance(which, str) else range(len(self))[which]
        begin, end = self._frames[number : number + 2]
        ids = self._ids[begin:end][first:last]
        return unpacked(ids, self._channels) if self._packed else ids

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Utterance id -> number of the utterance in the file."""
        return {row["id"]: number for number, row in enumerate(self.rows)}

    def _json(self, at: int) -> tuple[Any, int]:
        """The JSON that begins at a position, and the position of its end."""
        length = _NUMBER.unpack_from(self._bytes, at)[0]
        end = at + _NUMBER.size + length
        return json.loads(bytes(self._bytes[at + _NUMBER.size : end])), end


class DMelArchiveWriter:
    """Writes utterances into an open file; see also `dmel_archive_writer`."""

    def __init__(self, file: BinaryIO, tokenizer: Mapping[str, Any], name: str = "dMel archive"):
        self.name, self._file, self._tokenizer = name, file, dict(tokenizer)
        self._bins = _bins(self._tokenizer)
        self._packed = self._bins <= 16
        self._rows: dict[str, dict[str, Any]] = {}
        file.write(MAGIC)
        _write_json(file, {"tokenizer": self._tokenizer, "packed": self._packed})

    def write(self, utterance_id: str, ids: np.ndarray, **row: Any) -> None:
        """Add an utterance.

        Args:
            utterance_id: unique in the file.
            ids: (T, C) uint8, without special frames.
            **row: other facts for the index, which JSON can hold: text, speaker, duration in seconds, ...

        Raises:
            SigmelError: an id that the file has already; ids of a wrong shape or type, or of no bin.
        """
        channels = self._tokenizer["channels"]
        if utterance_id in self._rows:
            raise SigmelError(f"{self.name}: two utterances have the id {utterance_id!r}")
        if ids.dtype != np.uint8 or ids.ndim != 2 or ids.shape[1] != channels:
            shape = f"{ids.dtype} {ids.shape}"
            raise SigmelError(f"{self.name}: {utterance_id}: ids are {shape}, expected uint8 (frames, {channels})")
        if ids.size and ids.max() >= self._bins:
            raise SigmelError(
                f"{self.name}: {utterance_id}: ids up to {ids.max()}, but bins have 0 to {self._bins - 1}"
            )
        self._rows[utterance_id] = {"id": utterance_id, "frames": len(ids), **row}
        self._file.write((packed(ids) if self._packed else np.ascontiguousarray(ids)).data)

    def close(self) -> None:
        """Write the index."""
        at = self._file.tell()
        _write_json(self._file, list(self._rows.values()))
        self._file.write(_NUMBER.pack(at))


@contextmanager
def dmel_archive_writer(path: str | os.PathLike[str], tokenizer: Mapping[str, Any]) -> Iterator[DMelArchiveWriter]:
    """Context manager: a `DMelArchiveWriter` of a file that appears when the block has ended without an error.

    Args:
        path: the file.
        tokenizer: `DMelTokenizer.config`.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        writer = DMelArchiveWriter(file, tokenizer, str(path))
        yield writer
        writer.close()


def archives_in(source: Path, tokenizer: Mapping[str, Any] | None = None) -> list[DMelArchive]:
    """The archives of a folder, or the archive at this path; all must have the same settings.

    Args:
        source: a folder or a file.
        tokenizer: the settings that the archives must have. Default: any.

    Raises:
        SigmelError: there is no archive, or settings differ.
    """
    paths = sorted(source.glob("*.dmel")) if source.is_dir() else [source]
    if not paths:
        raise SigmelError(f"{source}: holds no archive (*.dmel)")
    archives = [DMelArchive(path, tokenizer) for path in paths]
    for archive in archives[1:]:
        check_same_settings(archive.name, archive.tokenizer, archives[0].tokenizer)
    return archives


def packed(ids: np.ndarray) -> np.ndarray:
    """(T, (C + 1) // 2) bytes of (T, C) ids below 16."""
    padded = np.pad(ids, ((0, 0), (0, ids.shape[1] % 2)))
    return padded[:, ::2] | padded[:, 1::2] << 4


def unpacked(pairs: np.ndarray, channels: int) -> np.ndarray:
    """(T, C) ids of (T, (C + 1) // 2) bytes that `packed` made."""
    ids = np.empty((len(pairs), 2 * pairs.shape[1]), np.uint8)
    ids[:, ::2], ids[:, 1::2] = pairs & 15, pairs >> 4
    return ids[:, :channels]


def check_same_settings(name: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise a DMelArchiveError that names the settings in which two tokenizers differ."""
    differing = [key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key)]
    if differing:
        pairs = (f"{key} {_brief(found.get(key))}, expected {_brief(expected.get(key))}" for key in differing)
        raise DMelArchiveError(f"{name}: made with other settings: {', '.join(pairs)}")


def _brief(value: Any) -> str:
    return f"of {len(value)} channels" if isinstance(value, list) else str(value)


def _bins(tokenizer: Mapping[str, Any]) -> int:
    return len(tokenizer["codebook"][0]) if tokenizer["codebook"] else 2 ** tokenizer["bits"]


def _mapped(path: Path) -> mmap.mmap | bytes:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise DMelArchiveError(f"{path}: no such file") from error
    except (ValueError, IsADirectoryError) as error:  # an empty file cannot be mapped
        raise DMelArchiveError(f"{path}: not a dMel archive") from error


def _write_json(file: BinaryIO, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    file.write(_NUMBER.pack(len(text)) + text)
