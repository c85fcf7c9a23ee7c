"""Lets NeMo build our classes from a YAML file, without importing NeMo.

NeMo instantiates only the `_target_` classes whose path starts with a prefix on the list
`nemo.core.classes.common.ALLOWED_TARGET_PREFIXES`. Three hooks put our prefix on this list, so that NeMo's own scripts
work unmodified:

- the entry point `lightning.pytorch.callbacks_factory`, read by every Lightning `Trainer`;
- the Hydra search-path plugin `hydra_plugins.sigmel_searchpath`, read by every Hydra program;
- `import sigmel.hosts.nemo`, for a bare `ASRModel.restore_from`.

The first two run in programs that may have nothing to do with NeMo, so this module imports nothing heavy and acts only
when NeMo is already there. That is early enough: a program that builds NeMo models has imported NeMo by the time it
makes a Trainer or enters `hydra_runner`.
"""

import sys
from typing import Any

TARGET_PREFIX = "sigmel.hosts.nemo."


def allow_targets() -> bool:
    """Put our prefix on the list of classes that NeMo may instantiate; harmless when repeated.

    Returns:
        Whether NeMo accepts our classes now: False if NeMo is not imported (yet).
    """
    common = sys.modules.get("nemo.core.classes.common")
    # The list is absent from NeMo before 2.5.3, which accepts any target, and from a module still being imported.
    prefixes = getattr(common, "ALLOWED_TARGET_PREFIXES", None)
    if prefixes is None:
        return False
    if TARGET_PREFIX not in prefixes:
        prefixes.append(TARGET_PREFIX)
    return True


def callbacks_factory() -> list[Any]:
    """Register our classes; the entry point of Lightning, to which it gives no callback."""
    allow_targets()
    return []
