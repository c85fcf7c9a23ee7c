"""What hosts' model files hold: NeMo's `.nemo`, ESPnet's packed `.zip`, and a `.pth` beside its `config.yaml`.

Each host has a module here, with the same five functions, which need no host and run no code that a file brings:

- `read(path)`: the file as a `Checkpoint`; `write(checkpoint, path)` writes one;
- `read_ctc(path, hybrid=False)`: the file as a `CTCModel`, which either host can have. With `hybrid`, a transducer
  or a decoder beside CTC is left out. Raises `NeedsHost` for other models;
- `write_ctc(model, path)`: a file that the host loads;
- `add_experts(config, options)`: writes the options of experts into a configuration, and returns the names of the
  parameters that become experts, see `sigmel.models.upcycling`.

All raise a SigmelError that names the file if it does not exist, is of another kind, or has parts that do not fit.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from sigmel.errors import SigmelError

HOSTS = {".nemo": "nemo", ".zip": "espnet", ".pth": "espnet"}  # suffix of a model file -> its host
KINDS = "NeMo's .nemo, ESPnet's packed .zip, or a .pth beside its config.yaml"  # for help texts


def host_of(path: Path) -> str:
    """The host that a model file belongs to, by its suffix: "nemo" or "espnet".

    Raises:
        SigmelError: another suffix.
    """
    if path.suffix not in HOSTS:
        raise SigmelError(f"{path}: the suffix must be one of {', '.join(HOSTS)}")
    return HOSTS[path.suffix]


def format_of(path: Path) -> ModuleType:
    """The module of this package that reads and writes a model file, by the file's suffix.

    Raises:
        SigmelError: another suffix.
    """
    return importlib.import_module(f"{__name__}.{host_of(path)}")
