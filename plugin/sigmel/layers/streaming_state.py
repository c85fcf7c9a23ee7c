"""States of streams: dataclasses of tensors, lists and other states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from torch import Tensor

State = TypeVar("State")


def map_state(function: Callable[..., Any], *states: State, leaf: type | tuple[type, ...] = Tensor) -> State:
    """The state whose tensors a function makes of the tensors of states that have one structure.

    Args:
        function: takes what stands at one place in each of the states.
        states: at least one.
        leaf: what the function takes. Default: tensors.
    """
    first: Any = states[0]
    if isinstance(first, leaf):
        return function(*states)
    if isinstance(first, list):
        return [map_state(function, *items, leaf=leaf) for items in zip(*states, strict=True)]  # type: ignore
    values = ((field.name, [getattr(state, field.name) for state in states]) for field in fields(first))
    return type(first)(**{name: map_state(function, *given, leaf=leaf) for name, given in values})
