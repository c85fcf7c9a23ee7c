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


def flat_options(*sources: Callable[..., Any], without: Collection[str] = ()) -> Callable[[Class], Class]:
    """Class decorator: the `**options` of a class are the parameters of dataclasses or other classes, `sources`.

    `inspect.signature`, which ESPnet's --print_config, help() and `sigmel.registry` read, shows them one by one, and
    an option that is not among them is a SigmelError that names it, unless a source takes any.

    Args:
        sources: dataclasses and classes that the options are handed to.
        without: parameters of the sources that are no options of the class.
    """

    def decorate(cls: Class) -> Class:
        init = cls.__init__  # type: ignore[misc]
        own = inspect.signature(init).parameters
        theirs = [p for source in sources for p in inspect.signature(source).parameters.values()]
        flat = {name: p for name, p in own.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
        others = [p for p in theirs if p.kind is p.VAR_KEYWORD][:1]
        named = [p for p in theirs if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        flat |= {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in named if p.name not in {*own, *without}}
        flat |= {name: p for name, p in own.items() if p.kind is p.KEYWORD_ONLY}

        @functools.wraps(init)
        def checked(self: Any, *args: Any, **options: Any) -> None:
            for name in options:
                if name not in flat and not others:
                    raise SigmelError(f"{cls.__name__} has no option {name!r}; {nearest(name, [*flat][1:])}")
            init(self, *args, **options)

        checked.__signature__ = inspect.Signature([*flat.values(), *others])  # type: ignore[attr-defined]
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
