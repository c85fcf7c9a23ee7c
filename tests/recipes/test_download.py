"""Archives from the network: checked, unpacked, complete or absent."""

import hashlib
import io
import tarfile

import pytest

from sigmel.errors import SigmelError
from sigmel.recipes.download import Archive

CONTENT = {"corpus-1/a/one.txt": b"one", "corpus-1/two.txt": b"two", "corpus-1/skip.bin": b"three"}


@pytest.fixture
def archive(tmp_path):
    return pack(tmp_path / "archive.tar.gz", CONTENT)


def pack(path, content):
    with tarfile.open(path, "w:gz") as tar:
        for name, held in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(held)
            tar.addfile(member, io.BytesIO(held))
        link = tarfile.TarInfo("corpus-1/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


@pytest.fixture
def fetch(address):
    """Function that downloads an archive of `tmp_path` into a folder."""

    def run(archive, target, sha256=None):
        sha256 = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
        return Archive(f"{address}/{archive.name}", sha256, target.name, ["*.txt"], "--corpus-dir").fetch(
            target.parent
        )

    return run


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_wanted_is_unpacked_once(fetch, archive, tmp_path):
    target = tmp_path / "downloads/corpus"
    assert fetch(archive, target) == target
    assert contents(target) == {"a/one.txt": b"one", "two.txt": b"two"}
    assert [path.name for path in target.parent.iterdir()] == ["corpus"]
    archive.unlink()
    assert fetch(archive, target, sha256="0") == target  # it is there: no second download


def test_wrong_checksum_leaves_nothing(fetch, archive, tmp_path):
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(SigmelError, match=rf"archive\.tar\.gz: .*{right}.*--corpus-dir"):
        fetch(archive, tmp_path / "downloads/corpus", sha256=right)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_failed_download_names_the_address_and_the_way_round(fetch, archive, tmp_path):
    archive.unlink()
    with pytest.raises(SigmelError, match=r"archive\.tar\.gz: 404 .*--corpus-dir"):
        fetch(archive, tmp_path / "downloads/corpus", sha256="0")
    assert list((tmp_path / "downloads").iterdir()) == []


@pytest.mark.parametrize("outside", ["../escape.txt", "corpus-1/a/../../escape.txt", "/escape.txt"])
def test_nothing_is_written_outside(fetch, tmp_path, outside):
    archive = pack(tmp_path / "archive.tar.gz", CONTENT | {outside: b"four"})
    with pytest.raises(SigmelError, match=r"archive\.tar\.gz: .*escape\.txt would be written outside"):
        fetch(archive, tmp_path / "downloads/corpus")
    assert list((tmp_path / "downloads").iterdir()) == []
    assert not list(tmp_path.rglob("escape.txt"))
