"""Archives from the network: checked, unpacked, complete or absent."""

import hashlib
import io
import tarfile
from pathlib import PurePosixPath

import pytest

from sigmel.errors import SigmelError
from sigmel.recipes.download import fetch_archive

CONTENT = {"corpus-1/a/one.txt": b"one", "corpus-1/two.txt": b"two", "corpus-1/skip.bin": b"three"}


@pytest.fixture
def archive(tmp_path):
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as tar:
        for name, content in CONTENT.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("corpus-1/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return tmp_path / "archive.tar.gz"


def texts(path):
    return path.relative_to("corpus-1") if path.suffix == ".txt" else None


def fetch(archive, target, place=texts, sha256=None):
    sha256 = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
    return fetch_archive(archive.as_uri(), sha256, target, place, "--corpus-dir")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_wanted_is_unpacked_once(archive, tmp_path):
    target = tmp_path / "downloads/corpus"
    assert fetch(archive, target) == target
    assert contents(target) == {"a/one.txt": b"one", "two.txt": b"two"}
    assert [path.name for path in target.parent.iterdir()] == ["corpus"]
    archive.unlink()
    assert fetch(archive, target, sha256="0") == target  # it is there: no second download


def test_wrong_checksum_leaves_nothing(archive, tmp_path):
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(SigmelError, match=rf"archive\.tar\.gz: SHA-256 is \w+, expected {right}; .*--corpus-dir"):
        fetch(archive, tmp_path / "downloads/corpus", sha256=right)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_failed_download_names_the_address_and_the_way_round(archive, tmp_path):
    archive.unlink()
    with pytest.raises(SigmelError, match=r"archive\.tar\.gz: download failed .*--corpus-dir"):
        fetch(archive, tmp_path / "downloads/corpus", sha256="0")
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("outside", ["../escape.txt", "a/../../escape.txt", "/escape.txt"])
def test_nothing_is_written_outside(archive, tmp_path, outside):
    with pytest.raises(SigmelError, match=r"one\.txt would be written outside"):
        fetch(archive, tmp_path / "downloads/corpus", place=lambda path: PurePosixPath(outside))
    assert list((tmp_path / "downloads").iterdir()) == []
    assert not list(tmp_path.rglob("escape.txt"))
