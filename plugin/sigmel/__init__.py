"""Omni-router mixture-of-experts speech encoders for the toolkits people already use.

Importing this package loads neither torch nor a host, and next to nothing else: each is imported where it is used.
"""

from sigmel.errors import SigmelError

TYPE_CHECKING = False  # typing takes longer than all the rest
if TYPE_CHECKING:
    from sigmel.layers.patching.patch import patch_attention
    from sigmel.registry import RegistryError, register

__version__ = "0.1.0"
__all__ = ["RegistryError", "SigmelError", "__version__", "patch_attention", "register"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'sigmel' has no attribute {name!r}")
    if name == "patch_attention":
        from sigmel.layers.patching.patch import patch_attention

        return patch_attention
    from sigmel import registry

    return getattr(registry, name)
