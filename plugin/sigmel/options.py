"""Options that several classes share: a dataclass each, whose fields users give flat, among a class's own options.

A class takes them as `**options`, makes the dataclasses by `take_options` or `split_options`, and shows them in its
signature by `flat_options`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from sigmel.errors import SigmelError
from sigmel.registry import nearest

Group = TypeVar("Group")
Class = TypeVar("Class", bound=type)


def split_options(given: Mapping[str, Any], group: type[Group]) -> tuple[Group, dict[str, Any]]:
    """The dataclass `group` made of those of the given options that are its fields, and the other options."""
    names = {field.name for field in fields(group)}  # type: ignore[arg-type]
    others = {name: value for name, value in given.items() if name not in names}
    return group(**{name: value for name, value in given.items() if name in names}), others


def take_options(owner: type, given: Mapping[str, Any], *groups: type) -> list[Any]:
    """The dataclasses `groups`, made of the given options of a class `owner`.

    Raises:
        SigmelError: an option that is no field of any of them, by name.
    """
    made: list[Any] = []
    for group in groups:
        options, given = split_options(given, group)  # type: ignore[var-annotated]
        made.append(options)
    for name in given:
        raise SigmelError(
            f"{owner.__name__} has no option {name!r}; {nearest(name, inspect.signature(owner).parameters)}"
        )
    return made


def flat_options(*sources: Callable[..., Any], without: Collection[str] = ()) -> Callable[[Class], Class]:
    """Class decorator: `inspect.signature` shows the parameters of other classes in place of `**options`.

    ESPnet's --print_config, help() and `sigmel.registry.build` read signatures.

    Args:
        sources: the dataclasses or host classes that `**options` goes to; what the class names itself is not repeated.
        without: parameters of the sources that are not shown.
    """
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

    def decorate(cls: Class) -> Class:
        own = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind not in variable]  # type: ignore[misc]
        named = {p.name for p in own} | set(without)
        added: dict[str, inspect.Parameter] = {}
        for source in sources:
            for p in inspect.signature(source).parameters.values():
                if p.kind not in variable and p.name not in named:
                    added.setdefault(p.name, p.replace(kind=p.KEYWORD_ONLY))
        first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
        last = [p for p in own if p.kind is p.KEYWORD_ONLY]
        parameters = [*first, *added.values(), *last]
        if "__init__" in vars(cls):  # not on the class, whose subclasses have signatures of their own
            cls.__init__.__signature__ = inspect.Signature(parameters)  # type: ignore[misc]
        else:
            cls.__signature__ = inspect.Signature(parameters[1:])  # type: ignore[attr-defined]
        return cls

    return decorate


def check_choice(option: str, value: str, choices: Collection[str]) -> None:
    """Raise a SigmelError that names an option whose value is not one of its choices."""
    if value not in choices:
        raise SigmelError(f"{option}: '{value}' is none of {', '.join(choices)}")


def check_positive(**sizes: int) -> None:
    """Raise a SigmelError that names the first of these options that is less than 1."""
    for name, size in sizes.items():
        if size < 1:
            raise SigmelError(f"{name}: {size} must be at least 1")
