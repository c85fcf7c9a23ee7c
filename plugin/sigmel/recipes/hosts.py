"""The host that a model file belongs to."""

from __future__ import annotations

from pathlib import Path

from sigmel.errors import SigmelError

HOSTS = {".nemo": "nemo", ".zip": "espnet", ".pth": "espnet"}


def host_of(model: Path) -> str:
    """The host of a model file, by its suffix: "nemo" or "espnet".

    Raises:
        SigmelError: the suffix is unknown.
    """
    if model.suffix not in HOSTS:
        raise SigmelError(f"{model}: the suffix must be one of {', '.join(HOSTS)}")
    return HOSTS[model.suffix]
