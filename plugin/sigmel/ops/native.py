"""C++ of ours: compiled for this machine's processor when first used, kept, and called with tensors.

The functions have C linkage and are called through ctypes, so nothing of torch is compiled, and compiling takes
seconds. They use the threads of torch: its OpenMP is in the process already, and a second one would get in its way.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

HEADERS = Path(__file__).parent  # what our sources have in common
COMPILE = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=c++17", "-fPIC", "-Wno-psabi"]


class Native(NamedTuple):
    """A compiled file, or why there is no such file."""

    code: ctypes.CDLL | None
    problem: str


@functools.cache
def native(source: Path) -> Native:
    """The compiled form of a C++ file.

    The library is kept in `$XDG_CACHE_HOME/sigmel` (`~/.cache/sigmel`), one for each source (with the headers of this
    folder), compiler and processor. The compiler is `$CXX`, or the first of c++, g++ and clang++.
    """
    try:
        return Native(_load(source), "")
    except (OSError, subprocess.CalledProcessError) as error:
        output = (getattr(error, "stderr", None) or "").strip().splitlines()
        return Native(None, f"{source.name} cannot be compiled: {output[-1] if output else error}")


def call(source: Path, function: str, *arguments: Tensor | int | ctypes.Structure) -> None:
    """Call a function of a C++ file that `native` has compiled.

    Tensors are given as the addresses of their memory, integers as int64, structures by reference.
    """
    code, problem = native(source)
    if code is None:
        raise RuntimeError(problem)
    getattr(code, function)(*[_as_c(argument) for argument in arguments])


def _as_c(argument: Tensor | int | ctypes.Structure) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.byref(argument) if isinstance(argument, ctypes.Structure) else ctypes.c_void_p(argument.data_ptr())


def _load(source: Path) -> ctypes.CDLL:
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler was found; install one, or set CXX")
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    texts = [path.read_text() for path in (source, *sorted(HEADERS.glob("*.h")))]
    facts = (*texts, version, _processor(), *COMPILE)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sigmel"
    target = folder / f"{source.parent.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            compiled, linked = Path(work) / "object.o", Path(work) / "library.so"
            _compile(compiler, source, compiled)
            # Without -fopenmp: its symbols are those that torch has loaded.
            _run([compiler, "-shared", str(compiled), "-o", str(linked)])
            linked.replace(target)  # another process may be doing the same
    return ctypes.CDLL(str(target))


def _compile(compiler: str, source: Path, target: Path) -> None:
    command = [compiler, *COMPILE, f"-I{HEADERS}", "-c", str(source), "-o", str(target)]
    try:
        _run([*command, "-fopenmp"])
    except subprocess.CalledProcessError:
        _run(command)  # one thread, where the compiler has no OpenMP


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return platform.processor()
