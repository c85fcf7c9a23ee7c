"""Omni-router mixture-of-experts speech encoders for the toolkits people already use.

Importing this package loads neither torch nor a host: each is imported where it is used.
"""

from sigmel.errors import SigmelError
from sigmel.registry import RegistryError, register

__version__ = "0.1.0"
__all__ = ["RegistryError", "SigmelError", "__version__", "register"]
