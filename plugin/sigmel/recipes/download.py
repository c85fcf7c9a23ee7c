"""Corpora from the network: one archive, checked, of which the wanted files are kept."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir


def fetch_archive(
    url: str, sha256: str, target: Path, place: Callable[[PurePosixPath], PurePosixPath | None], option: str
) -> Path:
    """Download a tar archive and unpack it, unless ``target`` is there already.

    Args:
        url: of the archive, compressed or not.
        sha256: of the archive, in hexadecimal digits.
        target: the folder to make; it appears when it is complete.
        place: given the name of a file in the archive, where below ``target`` it goes; None leaves it out. Links are
            always left out.
        option: of the command, which takes a copy instead; named when the download fails.

    Returns:
        ``target``.

    Raises:
        SigmelError: the download fails, the archive is another than ``sha256`` says, or a file would be written
            outside ``target``.
    """
    if target.is_dir():
        return target
    from tqdm import tqdm

    with atomic_dir(target) as temporary:
        archive = temporary / "archive.tar"
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(url, timeout=60) as response, archive.open("wb") as file:
                size = int(response.headers.get("Content-Length") or 0) or None
                with tqdm(None, f"downloading {url}", size, unit="B", unit_scale=True, mininterval=1.0) as bar:
                    while block := response.read(1 << 20):
                        digest.update(block)
                        bar.update(file.write(block))
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise SigmelError(f"{url}: download failed ({error}); or give a copy with {option}") from error
        if digest.hexdigest() != sha256:
            raise SigmelError(
                f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}; or give a copy with {option}"
            )
        with tarfile.open(archive) as tar:
            for member in tar:
                where = place(PurePosixPath(member.name)) if member.isfile() else None
                content = tar.extractfile(member) if where is not None else None
                if where is None or content is None:
                    continue
                if where.is_absolute() or ".." in where.parts:
                    raise SigmelError(f"{url}: {member.name} would be written outside {target}")
                (temporary / where).parent.mkdir(parents=True, exist_ok=True)
                (temporary / where).write_bytes(content.read())
        archive.unlink()
    return target
