"""Libraries that are not simply had from the package index."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version


def k2_wheel() -> str:
    """Where the wheels of k2 are: each is built for one torch and one Python, so pip alone picks a wrong one."""
    try:
        found, _, build = version("torch").partition("+")
    except PackageNotFoundError:
        found, build = "", "cpu"
    page = "cpu" if build == "cpu" or sys.platform != "linux" else "cuda"
    names = f"torch{found} and cp{sys.version_info[0]}{sys.version_info[1]} in its name"
    return f"the wheel with {names} at https://k2-fsa.github.io/k2/{page}.html, if there is one"
