"""Our classes as choices of ESPnet's tasks: each registered class under its name, in the shape that ESPnet expects."""

from __future__ import annotations

import functools
import inspect
import warnings
from types import ModuleType
from typing import Any

from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.train.class_choices import ClassChoices
from espnet2.tts.abs_tts import AbsTTS

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.hosts.espnet.conformer import OmniRouterConformerEncoder, OmniRouterEBranchformerEncoder
from sigmel.hosts.espnet.dmel_lm import DMelTokens, RichASR, RichTTS
from sigmel.hosts.espnet.encoder import RegisteredEncoder
from sigmel.hosts.espnet.frontend import RegisteredFrontend
from sigmel.hosts.espnet.model import SigmelASRModel

# kind of our registry -> the class that adapts registered classes to ESPnet
ADAPTERS: dict[str, Any] = {"encoder": RegisteredEncoder, "frontend": RegisteredFrontend}

# ESPnet's type, or a class of ESPnet's -> name and class of ours for choices that are of this type or have this class
OWN: dict[type, tuple[str, type]] = {
    AbsEncoder: ("dmel_tokens", DMelTokens),
    AbsDecoder: ("dmel_lm", RichASR),
    AbsTTS: ("dmel_lm", RichTTS),
    ESPnetASRModel: ("sigmel_asr", SigmelASRModel),
    ConformerEncoder: (OmniRouterConformerEncoder.options.name, OmniRouterConformerEncoder),
    EBranchformerEncoder: (OmniRouterEBranchformerEncoder.options.name, OmniRouterEBranchformerEncoder),
}


def extend(task: ModuleType) -> None:
    """Add our classes to all choices of a task module; existing choices stay as they are.

    Raises:
        SigmelError: see `add`.
    """
    for choices in list(vars(task).values()):
        if isinstance(choices, ClassChoices):
            contribute(choices)


def contribute(choices: ClassChoices) -> None:
    """Add our classes of the type that these choices are of; harmless when repeated.

    This is also the entry point of the group `espnet2.plugins`, see patches/espnet-202611. A registered class that
    cannot be loaded is left out, with a warning: programs that do not use the class must run.

    Raises:
        SigmelError: see `add`.
    """
    for kind, adapter in ADAPTERS.items():
        if choices.base_type not in adapter.__bases__:
            continue
        for name in registry.names(kind):
            try:
                adapted = espnet_class(kind, name)
            except registry.RegistryError as error:
                warnings.warn(f"sigmel does not offer the {kind} {name!r} to ESPnet: {error}", stacklevel=2)
                continue
            add(choices, name, adapted)
    for theirs, ours in OWN.items():
        if theirs is choices.base_type or theirs in choices.classes.values():
            add(choices, *ours)


def add(choices: ClassChoices, name: str, cls: type[Any]) -> None:
    """Add a class to choices, with the checks that ESPnet makes only when choices are created.

    Raises:
        SigmelError: ESPnet cannot choose this name or gave it to another class, or the class has another type than
            these choices.
    """
    key = name.lower()  # as ESPnet's parser writes the user's word
    present = choices.classes.get(key)
    if present is cls:
        return
    where = f"ESPnet's choices of {choices.name}"
    if present is not None:
        raise SigmelError(f"{where} have {key!r} already: {present.__module__}.{present.__qualname__}; rename yours")
    if key in ("none", "nil", "null"):
        raise SigmelError(f"{where} cannot have {key!r}, which means no class; register yours as another name")
    if choices.base_type is not None and not issubclass(cls, choices.base_type):
        raise SigmelError(f"{where}: {name!r} is {cls.__name__}, which is no {choices.base_type.__name__}")
    choices.classes[key] = cls


@functools.cache
def espnet_class(kind: str, name: str) -> type[Any]:
    """The ESPnet class of a registered encoder or front end: always one object, so that adding it twice is harmless.

    The arguments, which `--print_config` shows, are those of the registered class, see the class in `ADAPTERS`.

    Raises:
        RegistryError: no class of this kind has that name, or it cannot be loaded.
    """
    core, adapter = registry.get(kind, name), ADAPTERS[kind]
    text = f"{core.__module__}.{core.__qualname__} as an ESPnet {kind}.\n\n{inspect.getdoc(core)}"
    body = {"__doc__": text, "__signature__": adapter.signature(name), "registered": name}
    return type(core.__name__, (adapter,), body)
