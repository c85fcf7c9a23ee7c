"""Corpora from the network: one archive each, of which the wanted files are kept."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from sigmel.errors import SigmelError, optional_library
from sigmel.files.atomic import atomic_dir


class Archive(NamedTuple):
    """A tar archive on the network that holds a corpus in one folder.

    Attributes:
        url: address of the archive, which may be compressed.
        sha256: its checksum, in hexadecimal digits.
        folder: name of the folder that the corpus is unpacked to.
        wanted: patterns of the files to keep, see `PurePath.match`.
        option: option of the data stage that takes a copy instead; errors name it.
    """

    url: str
    sha256: str
    folder: str
    wanted: Sequence[str]
    option: str

    def fetch(self, downloads: Path) -> Path:
        """Download, check and unpack the corpus below the folder `downloads`, unless it is there; return its folder.

        Raises:
            SigmelError: the download fails, or the archive is not the expected one or not safe to unpack.
        """
        target = downloads / self.folder
        if target.is_dir():
            return target
        pooch = optional_library("pooch", "downloads need", "pip install 'sigmel[recipes]'")
        with atomic_dir(target) as temporary:
            try:
                packed = Path(pooch.retrieve(self.url, f"sha256:{self.sha256}", "packed", temporary, progressbar=True))
                unpack(packed, temporary, self.wanted)
            except (ValueError, OSError) as error:
                raise SigmelError(f"{self.url}: {error}; or give a copy with {self.option}") from error
            packed.unlink()
        return target


def unpack(archive: Path, folder: Path, wanted: Sequence[str]) -> None:
    """Unpack the wanted files of a tar archive without the first folder of their paths; links are left out.

    Raises:
        SigmelError: a file would be written outside `folder`.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            content = tar.extractfile(member) if member.isfile() and any(map(path.match, wanted)) else None
            if content is None:
                continue
            if path.is_absolute() or ".." in path.parts:
                raise SigmelError(f"{path} would be written outside the folder")
            file = folder.joinpath(*path.parts[1:])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())
