"""Sigmoid attention in a model that was written for softmax attention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sigmel.errors import SigmelError
from sigmel.flat_options import check_positive
from sigmel.layers.patching import torch_attention

_INSTEAD: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: torch_attention.scaled_dot_product_attention,
    F.multi_head_attention_forward: torch_attention.multi_head_attention_forward,
}
# Attention modules of Hugging Face's find a function that calls the first of these in the last.
_NAMES = {"scaled_dot_product_attention", "multi_head_attention_forward", "ALL_ATTENTION_FUNCTIONS"}


@dataclass(frozen=True)
class PatchReport:
    """The modules that `patch_attention` replaced, by name; the name of the model itself is empty.

    Attributes:
        replaced: modules that have sigmoid attention now.
        left_alone: other modules that seem to attend, with the reason why they are unchanged.
    """

    replaced: list[str]
    left_alone: dict[str, str]

    def __str__(self) -> str:
        lines = [f"modules with sigmoid attention now: {len(self.replaced)}"]
        lines += [f"  {name or '(the model)'}" for name in self.replaced]
        lines += [f"modules left alone: {len(self.left_alone)}"]
        lines += [f"  {name or '(the model)'}: {reason}" for name, reason in self.left_alone.items()]
        return "\n".join(lines)


def patch_attention(model: nn.Module, keys: int | None = None) -> PatchReport:
    """Replace the softmax attention of a model by sigmoid attention (arXiv 2409.04431), in place.

    Patched are `nn.MultiheadAttention`, and modules whose forward calls `F.scaled_dot_product_attention` or
    `F.multi_head_attention_forward`, itself or by the methods and functions that it names; of Hugging Face's modules,
    those whose configuration says "sdpa". The class of such a module becomes a subclass; parameters, the keys of the
    state dict and hooks stay. A score becomes a weight by `sigmoid(score - ln n)`, n being the number of keys of a
    sequence that exist: those that some query may see, so that padding does not count. `nn.TransformerEncoder` and its
    layers no longer take their fast paths, which bypass the attention. A patched module that calls neither function
    when it runs, because of an option by which it computes softmax itself, raises RuntimeError.

    A model that was trained with softmax must be trained on. The stabilisers of the paper are not added.

    Args:
        model: patched in place, with the modules inside it. Modules that are patched already stay as they are.
        keys: n for all sequences. A decoder that generates with a cache needs this number, since a step would count
            fewer keys than one pass over the whole sequence. Default: None, the keys that exist.

    Returns:
        Which modules were replaced, and which were left alone, with the reason.

    Raises:
        SigmelError: nothing in the model has sigmoid attention now, or `keys` is below 1.
    """
    if keys is not None:
        check_positive(keys=keys)
    modules = dict(model.named_modules())
    reasons = {}
    replaced = []
    for name, module in modules.items():
        if isinstance(module, _Patched):
            reasons[name] = "has sigmoid attention already"
        elif _NAMES & (names := _names(module)):
            # Only modules of Hugging Face's have this in their configuration.
            asked = getattr(getattr(module, "config", None), "_attn_implementation", "sdpa")
            if asked != "sdpa":
                reasons[name] = f"its configuration asks for {asked!r} attention, not 'sdpa'"
            elif "checkpoint" in names:
                reasons[name] = "its forward calls a checkpoint, which would compute softmax in the backward pass"
            elif "forward" in vars(module):
                reasons[name] = "its forward was set on the module itself, and hides that of its class"
            else:
                _patch(module, keys)
                replaced.append(name)
    patched: list[Any] = [module for module in modules.values() if isinstance(module, _Patched)]
    known = {inner for module in patched for inner in module.modules()} | {modules[name] for name in reasons}
    for name, module in reversed(modules.items()):  # inner modules come before outer ones
        attends = "attention" in type(module).__name__.lower() and any(True for _ in module.parameters())
        if attends and known.isdisjoint(module.modules()):
            reasons[name] = "its forward calls no function that could be replaced"
            known.add(module)
    report = PatchReport(replaced, {name: reasons[name] for name in modules if name in reasons})
    if not patched:
        raise SigmelError(f"model: there is no attention in it that could be patched\n{report}")
    for module in modules.values():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # nested tensors are for the fast paths of its layers only
    return report


class _Sigmoid(TorchFunctionMode):
    """A context in which torch's attention functions compute sigmoid attention."""

    def __init__(self, keys: int | None):
        super().__init__()
        self.keys = keys
        self.served = False

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        instead = _INSTEAD.get(func)
        if instead is None:
            return func(*args, **(kwargs or {}))
        self.served = True
        return instead(*args, keys=self.keys, **(kwargs or {}))


class _Patched:
    """Mix-in before the class of a module that is patched."""

    sigmoid_keys: int | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of the original class, with sigmoid attention."""
        mode = _Sigmoid(self.sigmoid_keys)
        with mode:
            output = super().forward(*args, **kwargs)  # type: ignore[misc]
        if not mode.served:
            raise RuntimeError(
                f"{type(self).__name__}: this call did not come by F.scaled_dot_product_attention or "
                "F.multi_head_attention_forward, so its attention was not sigmoid; does an option ask for softmax?"
            )
        return output

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A pickle finds classes by their names, and this class is made at run time.
        reduced: Any = super().__reduce_ex__(2)
        _, (_, *arguments), *rest = reduced
        return _new, (type(self).__mro__[2], *arguments), *rest


@functools.cache
def _class(original: type) -> Any:
    return type(f"Sigmoid{original.__name__}", (_Patched, original), {"__doc__": original.__doc__})


def _new(original: type, *arguments: Any) -> nn.Module:
    return _class(original).__new__(_class(original), *arguments)


def _patch(module: nn.Module, keys: int | None) -> None:
    if isinstance(module, nn.MultiheadAttention):
        module.register_forward_pre_hook(_called)
    original: type = type(module)
    module.__class__ = _class(original)
    module.sigmoid_keys = keys  # type: ignore[assignment]


def _called(module: nn.Module, args: Any) -> None:
    """A hook without effect, which keeps nn.TransformerEncoderLayer from using a module's weights without a call."""


def _names(module: nn.Module) -> set[str]:
    """Names in the code of a module's forward, in the methods and functions that are named there, and so on."""
    names: set[str] = set()
    todo = _named(module, {}, "forward")
    done = set()
    while todo:
        function = todo.pop()
        if function in done:
            continue
        done.add(function)
        inside = [cell.cell_contents for cell in function.__closure__ or ()]  # functions inside decorators
        todo += [value for value in inside if isinstance(value, FunctionType)]
        for name in _code_names(function.__code__):
            # A function that was imported under another name still has its own.
            names |= {name, getattr(function.__globals__.get(name), "__name__", name)}
            todo += _named(module, function.__globals__, name)
    return names


def _code_names(code: CodeType) -> Iterator[str]:
    """Names of globals and attributes in a piece of code, and in functions defined in this code."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_names(constant)


def _named(module: nn.Module, scope: dict[str, Any], name: str) -> list[FunctionType]:
    """Functions that a name may mean in the code of a module: of the module, of its classes, or of a global scope."""
    owners = [vars(module), *(vars(base) for base in type(module).__mro__ if base is not nn.Module)]
    values = [getattr(owner.get(name), "__func__", owner.get(name)) for owner in owners]  # also static methods
    if not str(getattr(scope.get(name), "__module__", "")).startswith("torch."):
        values.append(scope.get(name))
    return [value for value in values if isinstance(value, FunctionType)]
