"""Operators of torch made from plain definitions, and the choice of the kernel that serves a call.

An op is a folder. Its `reference.py` defines the op in plain PyTorch; `cpu.py` and `cuda.py` are its kernels, modules
with the same functions, of the same arguments, and with `unsupported(inputs) -> str`: why the kernel cannot serve a
call, "" where it can. These inputs are the NamedTuple among the arguments of a call, or all arguments where there is
no NamedTuple.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from operator import itemgetter
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor


def operator(
    name: str, definition: Callable[..., Any], fake: Callable[..., Any], check: Callable[..., None] | None = None
) -> torch.library.CustomOpDef:
    """Register `torch.ops.sigmel.<name>`, whose schema is the signature of its definition, as `flat` spells it.

    Args:
        name: name of the operator.
        definition: the function of the op's `reference.py`. The kernels have a function of the same name.
        fake: what a trace runs: from the arguments of the definition to tensors of the right shapes, without values.
        check: raises ValueError for values that do not fit. Called with the arguments of the definition inside the
            operator, as a compiled graph knows values only there.
    """

    @functools.wraps(definition)
    def serve(*arguments: Any) -> Any:
        if check is not None:
            check(*arguments)
        inputs = next((argument for argument in arguments if isinstance(argument, tuple)), arguments)
        compute, x = getattr(form(package, inputs), definition.__name__), deciding(inputs)
        with torch.cuda.device_of(x) if x.is_cuda else nullcontext():  # Triton starts kernels on the current device
            return compute(*arguments)

    package = definition.__module__.rpartition(".")[0]
    op = torch.library.custom_op(f"sigmel::{name}", flat(serve), mutates_args=())
    op.register_fake(flat(functools.wraps(definition)(fake)))
    return op


def flat(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as an operator takes arguments: in place of a NamedTuple, its fields one by one."""
    hints = get_type_hints(function)
    returns = hints.pop("return")
    parameters: list[inspect.Parameter] = []
    readers = [_reader(name, hint, parameters) for name, hint in hints.items()]

    @functools.wraps(function)
    def call(*values: Any) -> Any:
        return function(*[read(values) for read in readers])

    call.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return call


def _reader(name: str, hint: Any, parameters: list[inspect.Parameter]) -> Callable[[Sequence[Any]], Any]:
    """A function that reads one argument from the arguments of the `flat` form, whose `parameters` are added to."""
    if hasattr(hint, "_fields"):
        readers = [_reader(*field, parameters) for field in get_type_hints(hint).items()]
        return lambda values: hint._make([read(values) for read in readers])
    parameters.append(inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=hint))
    return itemgetter(len(parameters) - 1)


def form(package: str, inputs: Sequence[Any]) -> ModuleType:
    """The module of an op that serves a call: the kernel of the device or, after one warning a reason, `reference`."""
    device = deciding(inputs).device.type
    kernel, problem = _kernel(package, device)
    if kernel is not None:
        problem = kernel.unsupported(inputs)
        if not problem:
            return kernel
    warn_once(f"{package} runs its plain PyTorch definition on {device}, which takes more time and memory: {problem}")
    return import_module(f"{package}.reference")


def deciding(inputs: Sequence[Any]) -> Tensor:
    """The first tensor of floating-point numbers, whose device and type decide on the kernel."""
    for x in inputs:
        if isinstance(x, Tensor) and x.is_floating_point():
            return x
    raise TypeError("expected a tensor of floating-point numbers")


@functools.cache
def _kernel(package: str, device: str) -> tuple[ModuleType | None, str]:
    """The kernel of an op for a device, or why there is no kernel: an unknown device, or Triton is missing."""
    if device not in ("cpu", "cuda"):
        return None, f"there is no kernel for {device}"
    try:
        return import_module(f"{package}.{device}"), ""
    except ImportError as error:
        return None, str(error)


@functools.cache
def warn_once(message: str) -> None:
    """Warn, the first time that this message is given."""
    warnings.warn(message, stacklevel=3)
