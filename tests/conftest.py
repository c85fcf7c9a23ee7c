"""What every test shares: one thread a worker, fixed seeds, and where tests run."""

import os
from pathlib import Path

# Before torch is imported: workers share the cores, and threads on top of them only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random

import numpy as np
import pytest

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a host on one worker, as importing a host takes long, and skips gpu tests without a GPU."""
    for item in items:
        folders = item.path.relative_to(TESTS).parts
        if folders[0] == "hosts" and len(folders) > 2:
            item.add_marker(pytest.mark.xdist_group(folders[1]))
        if "gpu" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
