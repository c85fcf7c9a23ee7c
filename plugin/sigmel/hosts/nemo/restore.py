"""Models from `.nemo` files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from nemo.core import ModelPT
from nemo.utils import logging

import sigmel.hosts.nemo  # noqa: F401  (lets NeMo restore our encoders)
from sigmel.errors import SigmelError, reading

Model = TypeVar("Model", bound=ModelPT)


def load_model(path: Path, kind: type[Model], device: str | None = None) -> Model:
    """Restore a model for inference; NeMo logs nothing but errors from then on.

    Args:
        path: the `.nemo` file.
        kind: class that the model must have.
        device: torch device. Default: "cuda" if a GPU is available, else "cpu".

    Raises:
        SigmelError: there is no such file, NeMo cannot restore it, or the model is of another class.
    """
    if not path.is_file():
        raise SigmelError(f"{path}: no such model; train one first")
    logging.setLevel(logging.ERROR)
    with reading(path, "a NeMo model that can be restored"):
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = ModelPT.restore_from(str(path), map_location=device)
        if not isinstance(model, kind):
            raise SigmelError(f"{type(model).__name__} is no {kind.__name__}")
        return model.eval()
