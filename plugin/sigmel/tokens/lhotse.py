"""dMel archives as storage of lhotse, for arrays along time: `cut.dmel = writer.store_array(cut.id, ids, ...)`.

Importing this module registers reader and writer with lhotse. Then arrays with `storage_type: sigmel_dmel` in a
manifest can be loaded by `cut.load_dmel()`, also in part.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.features.io import FeaturesReader, FeaturesWriter, register_reader, register_writer

from sigmel.tokens.archive import DMelArchive, dmel_archive_writer

NAME = "sigmel_dmel"


@register_writer
class DMelLhotseWriter(FeaturesWriter):
    """Writes ids into one archive, which appears when the `with` block has ended without an error.

    Args:
        storage_path: the archive.
        tokenizer: `config` of the `DMelTokenizer` that made the ids.
    """

    name = NAME

    def __init__(self, storage_path: str | Path, tokenizer: dict[str, Any]):
        super().__init__()
        self._path = Path(storage_path)
        self._opened = dmel_archive_writer(self._path, tokenizer)

    @property
    def storage_path(self) -> str:
        """The path of the archive."""
        return str(self._path)

    def __enter__(self) -> DMelLhotseWriter:
        self._writer = self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def write(self, key: str, value: np.ndarray) -> str:
        """Add (T, C) uint8 ids; the key, by which `DMelLhotseReader` finds them, is returned."""
        self._writer.write(key, value)
        return key


@register_reader
class DMelLhotseReader(FeaturesReader):
    """Reads archives that `DMelLhotseWriter` wrote."""

    name = NAME

    def __init__(self, storage_path: str | Path):
        super().__init__()
        self._archive = _opened(str(storage_path))

    def read(self, key: str, left_offset_frames: int = 0, right_offset_frames: int | None = None) -> np.ndarray:
        """(t, C) uint8 ids of an utterance, or of a part of it."""
        return self._archive.read(key, left_offset_frames, right_offset_frames)


@functools.lru_cache(maxsize=64)
def _opened(path: str) -> DMelArchive:
    """An archive, which stays open, since lhotse makes a reader for every array."""
    return DMelArchive(path)
