"""A checkpoint must fit: ESPnet loads with strict=False, and leaves what is missing at its random start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import sigmel
from sigmel.errors import SigmelError


def check_when_loaded(module: nn.Module, ours: Callable[[str], bool]) -> None:
    """From now on, refuse a state dict that lacks or adds parameters, even where strict=False is asked for.

    Args:
        module: what is loaded, or a part of it.
        ours: of a parameter's full name, whether it is this module's to check.
    """

    def check(_: nn.Module, incompatible: Any) -> None:
        missing = [key for key in incompatible.missing_keys if ours(key)]
        unexpected = [key for key in incompatible.unexpected_keys if ours(key)]
        if missing or unexpected:
            raise SigmelError(
                f"the checkpoint is of another model, or of another version than this sigmel {sigmel.__version__}: "
                + "; ".join(
                    f"{len(keys)} parameters {what}: {', '.join(keys)}"
                    for keys, what in ((missing, "it lacks"), (unexpected, "the model has no place for"))
                    if keys
                )
            )

    module.register_load_state_dict_post_hook(check)
