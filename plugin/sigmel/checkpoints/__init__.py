"""What a .nemo, an ESPnet archive and a .pth hold: read, written, converted, upcycled."""

from __future__ import annotations

from pathlib import Path

from sigmel.errors import SigmelError

HOSTS = {".nemo": "nemo", ".zip": "espnet", ".pth": "espnet"}  # suffix of a model file -> its host


def host_of(path: Path) -> str:
    """The host that a model file belongs to, by its suffix: "nemo" or "espnet".

    Raises:
        SigmelError: another suffix.
    """
    if path.suffix not in HOSTS:
        raise SigmelError(f"{path}: the suffix must be one of {', '.join(HOSTS)}")
    return HOSTS[path.suffix]
