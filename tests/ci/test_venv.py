"""What .ci/venv.py decides before it installs anything; the installation itself is `make venv`."""

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def venv():
    spec = importlib.util.spec_from_file_location("venv_script", ROOT / ".ci" / "venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cpu_index_is_offered_when_it_answers(venv, monkeypatch):
    monkeypatch.setattr(venv.platform, "system", lambda: "Linux")
    monkeypatch.setattr(venv, "fetch", lambda url, timeout: b"")
    assert venv.cpu_index() == ["--extra-index-url", venv.TORCH_CPU_INDEX]


def test_the_cpu_index_is_left_out_and_said_so_when_it_does_not_answer(venv, monkeypatch, capsys):
    monkeypatch.setattr(venv.platform, "system", lambda: "Linux")
    monkeypatch.setattr(venv, "TORCH_CPU_INDEX", "http://127.0.0.1:9/whl/cpu")  # Nobody listens there.
    assert venv.cpu_index() == []
    assert "http://127.0.0.1:9/whl/cpu cannot be reached" in capsys.readouterr().out


def test_other_systems_have_cpu_builds_on_the_package_index(venv, monkeypatch):
    monkeypatch.setattr(venv.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(venv, "fetch", lambda url, timeout: pytest.fail("nothing is to be fetched"))
    assert venv.cpu_index() == []


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", True),
        ("echo 'No devices were found'", False),
        ("echo 'NVIDIA-SMI has failed: no GPU driver' >&2; exit 9", False),
        (None, False),
    ],
)
def test_a_gpu_is_one_that_the_driver_names(venv, monkeypatch, tmp_path, script, found):
    if script is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert venv.has_gpu() is found


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0)])
def test_an_unsupported_python_is_refused(venv, monkeypatch, tmp_path, version):
    monkeypatch.setattr(venv.sys, "version_info", version)
    with pytest.raises(SystemExit, match=r"sigmel needs 3\.10 to 3\.13"):
        venv.main(str(tmp_path / "venv"), "torch", "test")
    assert not (tmp_path / "venv").exists()


def test_an_environment_of_another_python_is_kept_and_reported(venv, monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(venv, "VERSION", "3.99.1")
    with pytest.raises(SystemExit, match=r"is of Python 3\.1.*not 3\.99\.1"):
        venv.make_venv(str(tmp_path))
    assert python.exists()


@pytest.fixture
def index(venv, monkeypatch):
    """A package index that lists three wheels of pip, the newest in the middle, each with the checksum of its text."""

    def make(newest=b"pip 26.0"):
        files = {"25.10": b"pip 25.10", "26.0": b"pip 26.0", "26.0rc1": b"no release", "9.0.3": b"pip 9.0.3"}
        names = {version: f"pip-{version}-py3-none-any.whl" for version in files}
        links = [
            f'<a href="../files/{name}#sha256={hashlib.sha256(files[version]).hexdigest()}">{name}</a>'
            for version, name in names.items()
        ]
        answers = {"https://example.org/simple/pip/": "\n".join(links).encode()}
        answers |= {f"https://example.org/simple/files/{names[version]}": files[version] for version in files}
        answers[f"https://example.org/simple/files/{names['26.0']}"] = newest
        monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple/")
        monkeypatch.setattr(venv, "fetch", lambda url, timeout: answers[url])

    return make


def test_the_newest_wheel_is_downloaded(venv, index, tmp_path):
    index()
    path = Path(venv.wheel("pip", r"[\d.]+-py3-none-any", str(tmp_path)))
    assert (path.name, path.read_bytes()) == ("pip-26.0-py3-none-any.whl", b"pip 26.0")


def test_a_wheel_that_is_not_the_listed_one_is_refused(venv, index, tmp_path):
    index(newest=b"pip 26.0, changed on the way")
    with pytest.raises(
        SystemExit, match=r"pip-26\.0-py3-none-any\.whl is not the file .* lists: its sha256 is another"
    ):
        venv.wheel("pip", r"[\d.]+-py3-none-any", str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_wheel_that_is_not_listed_is_named(venv, index, tmp_path):
    index()
    with pytest.raises(SystemExit, match=r"https://example\.org/simple/pip/ lists no wheel pip-1\.0"):
        venv.wheel("pip", "1.0", str(tmp_path))


def test_ci_runs_make_test_from_anywhere(tmp_path):
    (tmp_path / "make").write_text('#!/bin/sh\necho "$PWD: $*"; exit 7\n')
    (tmp_path / "make").chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "run"], cwd="/", env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (7, f"{ROOT}: test\n")
