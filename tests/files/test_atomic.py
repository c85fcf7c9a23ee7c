"""Files and folders are complete or absent."""

import errno

import pytest

from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir, atomic_path


def test_file_appears_only_when_complete(tmp_path):
    target = tmp_path / "deep" / "file.json"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.suffix == target.suffix
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert [path.name for path in target.parent.iterdir()] == ["file.json"]


def write_and_fail(target, error):
    with target as temporary:
        (temporary / "part" if temporary.is_dir() else temporary).write_text("new")
        raise error


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_failed_file_leaves_the_old_one(tmp_path, error):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(error)):
        write_and_fail(atomic_path(target), error)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_failed_folder_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        write_and_fail(atomic_dir(tmp_path / "data"), error)
    assert list(tmp_path.iterdir()) == []


def test_folder_forgets_what_a_killed_run_left(tmp_path):
    (tmp_path / "data.tmp").mkdir()
    (tmp_path / "data.tmp" / "stale").write_text("x")
    with atomic_dir(tmp_path / "data") as temporary:
        (temporary / "fresh").write_text("x")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["fresh"]
    assert not (tmp_path / "data.tmp").exists()


def test_two_at_once_do_not_share_a_folder(tmp_path):
    with atomic_dir(tmp_path / "data") as temporary:
        (temporary / "first").write_text("x")
        with pytest.raises(SigmelError, match="another process"), atomic_dir(tmp_path / "data"):
            pass
        (temporary / "last").write_text("x")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["first", "last"]


def test_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(FileExistsError, match="data exists"), atomic_dir(tmp_path / "data"):
        pass


@pytest.mark.parametrize("make", [atomic_path, atomic_dir])
def test_full_disk_is_named(tmp_path, make):
    with pytest.raises(SigmelError, match=r"thing: no space left"), make(tmp_path / "thing"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass_through(tmp_path):
    with pytest.raises(PermissionError), atomic_path(tmp_path / "thing"):
        raise PermissionError(errno.EACCES, "no")
