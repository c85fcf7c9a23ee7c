"""What the tests of Triton kernels have in common."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DEVICE = """
import sys

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Device:
    capability = int(sys.argv[1])

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0


driver.set_active(Device())
"""


@pytest.fixture
def compile_ahead(tmp_path: Path) -> Callable[..., None]:
    """Runs Python that compiles kernels for an absent device, since the interpreter takes what a compiler refuses.

    The capability of the device and the other arguments are the `sys.argv` of that Python.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}

    def run(script: str, capability: int, *arguments: str) -> None:
        command = [sys.executable, "-c", DEVICE + script, str(capability), *arguments]
        subprocess.run(command, env=environment, check=True)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """numpy warns of what the interpreter of Triton computes; a device does not."""
    for item in items:
        if item.path.name.endswith("_triton.py"):
            item.add_marker(pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning"))


@pytest.fixture(autouse=True)
def _triton(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test of kernels needs: the interpreter of Triton, or a device, and no search for the fastest kernel.

    On a device, measuring every configuration for every small case would take hours.
    """
    if not request.path.name.endswith("_triton.py"):
        return
    import torch

    from sigmel.ops import triton_common

    if not triton_common.INTERPRETED and not torch.cuda.is_available():
        pytest.skip("needs the interpreter of Triton, or a device")
    if "tuned" not in request.fixturenames:
        monkeypatch.setattr(triton_common, "may_measure", lambda: False)


@pytest.fixture
def tuned() -> None:
    """Asks for the configuration that is fastest."""
