"""Puts our classes among ESPnet's choices, without importing ESPnet.

An ESPnet task offers the classes in its module's `encoder_choices`, `frontend_choices` and so on. ESPnet has no hook
for plug-ins, but these are plain dictionaries, read when the command line is parsed. `register` adds our classes to
those of every task module that is loaded already, and watches for the other modules, which it extends right after
their import. So registration costs nothing in a program without ESPnet, and comes early enough in one with ESPnet.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # typing and importlib.abc would take longer than everything else here, at each start of Python
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# The modules that hold choices. The speech enhancement task copies those of the recogniser.
TASKS = (
    "espnet2.tasks.asr",
    "espnet2.tasks.s2t",
    "espnet2.tasks.slu",
    "espnet2.tasks.st",
    "espnet2.tasks.tts",
    "espnet3.systems.esp2_asr.task",
)


def register() -> None:
    """Extend the choices of ESPnet's tasks, whether they are loaded now or later; harmless when repeated.

    Raises:
        SigmelError: a loaded task uses one of our names for another class.
    """
    if not any(isinstance(finder, TaskFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TaskFinder())
    for name in TASKS:
        if name in sys.modules:
            _extend(sys.modules[name])


class TaskFinder:
    """Finds task modules as Python does, and has them extended after they are executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a task module; None for other modules."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in TASKS else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_extend(module: ModuleType) -> None:
                execute(module)
                _extend(module)

            spec.loader.exec_module = execute_and_extend  # type: ignore[method-assign]
        return spec


def _extend(module: ModuleType) -> None:
    from sigmel.hosts.espnet.class_choices import extend

    extend(module)
