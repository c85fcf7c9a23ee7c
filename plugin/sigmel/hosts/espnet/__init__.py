"""Adapters for ESPnet: sigmel's encoders and front ends, and a recogniser that adds the losses of routed experts.

Importing this package imports ESPnet's model classes, not its tasks. `sigmel.hosts.registration.espnet.register` adds
our classes to the choices of tasks.
"""

import warnings
from importlib.metadata import PackageNotFoundError, version

from sigmel.errors import SigmelError

try:
    _version = version("espnet")
except PackageNotFoundError as error:
    raise SigmelError("sigmel.hosts.espnet needs ESPnet: pip install espnet, or make espnet") from error
if _version < "202511":  # a year and a month
    raise SigmelError(
        f"espnet {_version} is not supported; sigmel needs 202511 (Python 3.11) or 202611 (Python 3.12 or 3.13)"
    )
if _version.split(".")[0] not in ("202511", "202611"):
    warnings.warn(f"sigmel supports espnet 202511 and 202611; {_version} was not tested with it", stacklevel=2)

from sigmel.hosts.espnet.class_choices import espnet_class
from sigmel.hosts.espnet.conformer import OmniRouterConformerEncoder, OmniRouterEBranchformerEncoder
from sigmel.hosts.espnet.encoder import RegisteredEncoder
from sigmel.hosts.espnet.frontend import RegisteredFrontend
from sigmel.hosts.espnet.model import SigmelASRModel

__all__ = [
    "OmniRouterConformerEncoder",
    "OmniRouterEBranchformerEncoder",
    "RegisteredEncoder",
    "RegisteredFrontend",
    "SigmelASRModel",
    "espnet_class",
]
