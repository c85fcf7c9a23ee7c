"""Kinds, names and classes: how a name in a configuration becomes a class, of sigmel or of another package.

A class is registered in one of two ways. With the decorator, once its module has been imported:

    @register("encoder", "my_encoder")
    class MyEncoder(torch.nn.Module): ...

or by its distribution, in the entry-point group `sigmel.plugins`, under `<kind>.<name>`:

    [options.entry_points]
    sigmel.plugins =
        encoder.my_encoder = my_package.encoder:MyEncoder

An entry point is loaded when its name is asked for, so looking at what exists imports nothing.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple, TypeVar

from sigmel.errors import SigmelError

GROUP = "sigmel.plugins"

T = TypeVar("T", bound=type)


class RegistryError(SigmelError):
    """A name that cannot be registered, found or loaded."""


class Contract(NamedTuple):
    """What a class of a kind must have.

    Attributes:
        methods: name -> the positional arguments it is called with.
        attributes: names that instances carry; a class shows them as class attributes, properties or annotations.
        keywords: keyword arguments that every class of the kind is built with, beside options of its own.
    """

    methods: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()


KINDS: dict[str, Contract] = {
    "encoder": Contract(
        {"forward": ("features", "lengths"), "output_size": ()},
        attributes=("input_size", "subsampling_factor"),
        keywords=("input_size",),
    ),
    "frontend": Contract({"forward": ("waveforms", "lengths"), "output_size": ()}),
    "vocoder": Contract({"forward": ("log_mel", "lengths")}, attributes=("config",), keywords=("tokenizer",)),
    "attention": Contract(
        {
            "forward": ("x", "visible", "table"),
            "step": ("x", "state", "mask", "left_context", "table"),
            "initial_state": ("batch_size", "left_context"),
        }
    ),
}


@dataclass(frozen=True)
class Entry:
    """One registered name.

    Attributes:
        kind: one of `KINDS`.
        name: what a configuration calls it.
        location: `module:Class`, where the class is.
        source: the distribution that declares it, or `@register`.
        problem: why the class cannot be used, as far as can be told without loading it; empty when nothing is known.
    """

    kind: str
    name: str
    location: str
    source: str
    problem: str = ""


_registered: dict[tuple[str, str], type] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """A class decorator that makes a class known as `name` of `kind`.

    A class that is registered again, as when its module is reloaded, replaces its predecessor.

    Raises:
        RegistryError: the kind is unknown, the name is taken or not made of letters, digits, `_`, `-` and `.`,
            or the class does not meet the contract of its kind.
    """
    problem = _name_problem(kind, name)
    if problem:
        raise RegistryError(problem)

    def decorate(cls: T) -> T:
        _check_contract(kind, name, cls)
        for other in entries():
            if (other.kind, other.name) == (kind, name) and other.location != _location(cls):
                raise RegistryError(
                    f"{kind} {name!r} is already {other.location} ({other.source}); give {_location(cls)} another name"
                )
        _registered[kind, name] = cls
        return cls

    return decorate


def get(kind: str, name: str) -> type[Any]:
    """The class registered as `name` of `kind`; its module is imported if need be.

    Raises:
        RegistryError: the kind or the name is unknown (the nearest names are given), two distributions claim the
            name, its entry point fails to load, or the class does not meet the contract of its kind.
    """
    entry = _entry(kind, name)
    if (kind, name) in _registered:
        return _registered[kind, name]
    try:
        cls = EntryPoint(f"{kind}.{name}", entry.location, GROUP).load()
    except Exception as error:  # importing a foreign module may raise anything
        raise RegistryError(
            f"{kind} {name!r} of {entry.source} cannot be loaded from {entry.location}: "
            f"{type(error).__name__}: {error}"
        ) from error
    _check_contract(kind, name, cls)
    return cls


def build(kind: str, name: str, **options: Any) -> Any:
    """An object of the class registered as `name` of `kind`.

    Raises:
        RegistryError: see `get`; or the class has no such option. The message names the package that provides the
            class and its version, since a configuration may have been written for another version.
    """
    cls = get(kind, name)
    parameters = inspect.signature(cls).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                source = _entry(kind, name).source
                raise RegistryError(
                    f"{kind} {name!r} ({source}) has no option {option!r}; {nearest(option, parameters)}"
                )
    return cls(**options)


def names(kind: str) -> list[str]:
    """The names registered for a kind, sorted; a RegistryError is raised when there is no such kind."""
    _check_kind(kind)
    return sorted({entry.name for entry in entries() if entry.kind == kind})


def entries() -> list[Entry]:
    """All registered names, sorted by kind and name; no module is imported.

    A name that two sources claim appears once for each source, and a malformed entry point appears too, each with its
    `problem`.
    """
    declared = _declared(tuple(sys.path))
    known = {(entry.kind, entry.name, entry.location) for entry in declared}
    decorated = [Entry(kind, name, _location(cls), "@register") for (kind, name), cls in _registered.items()]
    everything = [*declared, *(entry for entry in decorated if (entry.kind, entry.name, entry.location) not in known)]
    claims: dict[tuple[str, str], list[Entry]] = {}
    for entry in everything:
        claims.setdefault((entry.kind, entry.name), []).append(entry)
    for (kind, name), rivals in claims.items():
        if len(rivals) > 1:
            who = " and ".join(f"{rival.location} ({rival.source})" for rival in rivals)
            problem = f"{kind} {name!r} is claimed by {who}; uninstall or rename one of them"
            claims[kind, name] = [replace(rival, problem=rival.problem or problem) for rival in rivals]
    return sorted(
        (entry for rivals in claims.values() for entry in rivals), key=lambda e: (e.kind, e.name, e.source, e.location)
    )


@functools.lru_cache(maxsize=8)
def _declared(path: tuple[str, ...]) -> list[Entry]:
    """The entries declared by installed distributions; `path` is sys.path, on which the answer depends."""
    found = []
    for point in entry_points(group=GROUP):
        kind, _, name = point.name.partition(".")
        source = f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"
        problem = _name_problem(kind, name)
        if not problem and not re.fullmatch(r"[\w.]+:[\w.]+", point.value):
            problem = f"{point.value!r} is not <module>:<class>"
        if problem:
            problem = f"{source} declares the entry point {point.name!r}: {problem}"
        found.append(Entry(kind, name, point.value, source, problem))
    return found


def _entry(kind: str, name: str) -> Entry:
    """The entry of a name; a RegistryError is raised when the name is unknown or cannot be used."""
    found = [entry for entry in entries() if (entry.kind, entry.name) == (kind, name)]
    if not found:
        _check_kind(kind)
        raise RegistryError(f"unknown {kind} {name!r}; {nearest(name, names(kind))}")
    if found[0].problem:
        raise RegistryError(found[0].problem)
    return found[0]


def _location(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of an error message: what `word` may have meant, and all choices."""
    choices = sorted(choices)
    if not choices:
        return "none is registered"
    near = difflib.get_close_matches(word, choices)
    hint = f"did you mean {' or '.join(repr(choice) for choice in near)}? " if near else ""
    return f"{hint}There is {', '.join(choices)}"


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise RegistryError(f"unknown kind {kind!r}; {nearest(kind, KINDS)}")


def _name_problem(kind: str, name: str) -> str:
    if kind not in KINDS:
        return f"unknown kind {kind!r}; {nearest(kind, KINDS)}"
    if not re.fullmatch(r"\w[\w.-]*", name):
        return f"{name!r} cannot be the name of a {kind}; use letters, digits, '_', '-' and '.'"
    return ""


def _check_contract(kind: str, name: str, cls: object) -> None:
    """Raise a RegistryError with everything that `cls` lacks to be of `kind`."""
    if not isinstance(cls, type):
        raise RegistryError(f"{kind} {name!r} must be a class, not {cls!r}")
    contract = KINDS[kind]
    faults = []
    for method, arguments in contract.methods.items():
        call = f"{method}({', '.join(arguments)})"
        function = getattr(cls, method, None)
        # torch.nn.Module gives every subclass a forward() that only raises.
        if not callable(function) or getattr(function, "__name__", "") == "_forward_unimplemented":
            faults.append(f"has no method {call}")
            continue
        bound = isinstance(inspect.getattr_static(cls, method), (classmethod, staticmethod))
        try:
            inspect.signature(function).bind(*arguments if bound else (cls, *arguments))
        except TypeError as error:
            faults.append(f"cannot be called as {call}: {error}")
    try:
        inspect.signature(cls).bind_partial(**dict.fromkeys(contract.keywords))
    except TypeError as error:
        faults.append(f"cannot be built with {', '.join(contract.keywords)}: {error}")
    declared = {attribute for base in cls.__mro__ for attribute in inspect.get_annotations(base)}
    for attribute in contract.attributes:
        if attribute not in declared and not hasattr(cls, attribute):
            faults.append(f"has no attribute {attribute} (declare it in the class body, as in `{attribute}: int`)")
    if faults:
        raise RegistryError(f"{_location(cls)} is not a valid {kind} ({name!r}): it {'; it '.join(faults)}")
