"""Options that several classes share: dataclasses, whose fields a user gives flat, among a class's own options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from sigmel.errors import SigmelError
from sigmel.registry import nearest

Class = TypeVar("Class", bound=type)


def split_options(given: Mapping[str, Any], *groups: type) -> list[Any]:
    """The dataclasses `groups`, made of those of the given options that are their fields; last, the other options."""
    made: list[Any] = []
    for group in groups:
        names = {field.name for field in fields(group)}
        made.append(group(**{name: value for name, value in given.items() if name in names}))
        given = {name: value for name, value in given.items() if name not in names}
    return [*made, given]


def flat_signature(
    function: Callable[..., Any], *sources: Callable[..., Any], without: Collection[str] = ()
) -> inspect.Signature:
    """The signature of a function or class whose `**options` are the parameters of others.

    Args:
        function: takes `**options`.
        sources: dataclasses and classes that the options are handed to.
        without: parameters of the sources that are no options.
    """
    own = inspect.signature(function).parameters
    theirs = [p for source in sources for p in inspect.signature(source).parameters.values()]
    named = [p for p in theirs if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    flat = {name: p for name, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
    flat |= {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in named if p.name not in {*own, *without}}
    flat |= {name: p for name, p in own.items() if p.kind is p.KEYWORD_ONLY}
    any_other = [p for p in theirs if p.kind is p.VAR_KEYWORD][:1]
    return inspect.Signature([*flat.values(), *any_other])


def flat_options(*sources: Callable[..., Any], without: Collection[str] = ()) -> Callable[[Class], Class]:
    """Class decorator for a class that takes `**options`: it has the `flat_signature`, and refuses other options.

    ESPnet's --print_config, help() and `sigmel.registry` read the signature. An option that is not there is a
    SigmelError that names it.
    """

    def decorate(cls: Class) -> Class:
        init = cls.__init__  # type: ignore[misc]
        signature = flat_signature(init, *sources, without=without)
        takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **options: Any) -> None:
            for name in options:
                if not takes_any and name not in signature.parameters:
                    raise SigmelError(
                        f"{cls.__name__} has no option {name!r}; {nearest(name, [*signature.parameters][1:])}"
                    )
            init(self, *args, **options)

        checked.__signature__ = signature  # type: ignore[attr-defined]
        cls.__init__ = checked  # type: ignore[misc]
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
