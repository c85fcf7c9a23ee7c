"""patches/torchaudio-cpu sets aside the native file of a torchaudio that needs CUDA, and leaves a good one alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

APPLY = Path(__file__).parents[2] / "patches/torchaudio-cpu/apply.py"
NEEDS_CUDA = """
from pathlib import Path
if (Path(__file__).parent / "lib/_torchaudio.abi3.so").exists():
    raise OSError("libcudart.so.13: cannot open shared object file")
"""


def apply(folder):
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, APPLY], capture_output=True, text=True, env=environment)


@pytest.fixture
def torchaudio(tmp_path):
    """A package that behaves as PyPI's torchaudio does."""
    (tmp_path / "torchaudio/lib").mkdir(parents=True)
    (tmp_path / "torchaudio/lib/_torchaudio.abi3.so").touch()
    (tmp_path / "torchaudio/__init__.py").write_text(NEEDS_CUDA)
    return tmp_path / "torchaudio"


def test_the_native_file_is_set_aside_once(torchaudio):
    done = apply(torchaudio.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"set aside {torchaudio}/lib/_torchaudio.abi3.so, which needs CUDA" in done.stdout
    assert [path.name for path in (torchaudio / "lib").iterdir()] == ["_torchaudio.abi3.so.needs-cuda"]
    assert apply(torchaudio.parent).stdout == "torchaudio works: nothing to patch\n"


def test_a_good_one_is_left_alone(torchaudio):
    (torchaudio / "__init__.py").write_text("")
    assert apply(torchaudio.parent).stdout == "torchaudio works: nothing to patch\n"
    assert (torchaudio / "lib/_torchaudio.abi3.so").exists()


def test_one_that_is_broken_otherwise_is_an_error(torchaudio):
    (torchaudio / "__init__.py").write_text("import no_such_module")
    done = apply(torchaudio.parent)
    assert done.returncode == 2
    assert "error: torchaudio cannot be imported" in done.stderr
