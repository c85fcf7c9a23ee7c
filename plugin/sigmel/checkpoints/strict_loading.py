"""Strict loading under hosts that load with strict=False, which leaves missing parameters at their random start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

import sigmel
from sigmel.errors import SigmelError


def check_when_loaded(module: nn.Module, ours: Callable[[str], bool]) -> None:
    """Make a module refuse state dicts that lack or add parameters, even with strict=False.

    Args:
        module: the module that is loaded, or a part of it.
        ours: whether a parameter is to be checked, by its full name.
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
