"""Adapters for NeMo: sigmel's encoders, front ends and models, for the `_target_` of a model's YAML file.

Importing this package imports NeMo's speech collection and allows NeMo to instantiate the classes below.
`sigmel.hosts.registration.nemo` allows this for programs that do not import sigmel.
"""

import warnings
from importlib.metadata import PackageNotFoundError, version

from sigmel.errors import SigmelError
from sigmel.hosts.registration.nemo import allow_targets

try:
    _version = version("nemo_toolkit")
except PackageNotFoundError as error:
    raise SigmelError("sigmel.hosts.nemo needs NeMo: pip install 'sigmel[nemo]'") from error
if _version.split(".")[0] != "3":
    warnings.warn(
        f"sigmel supports nemo_toolkit >=3.0,<4; found {_version}, with which nothing was tested", stacklevel=2
    )

from sigmel.hosts.nemo.conformer import OmniRouterConformerEncoder, swap_attention, upcycle
from sigmel.hosts.nemo.dmel import DMelPreprocessor
from sigmel.hosts.nemo.encoder import OmniRouterEncoder, RegisteredEncoder
from sigmel.hosts.nemo.expert_parallel import ExpertParallel
from sigmel.hosts.nemo.graph import GraphCTCModel, GraphCTCModelBPE, use_graph
from sigmel.hosts.nemo.monitor import AttentionNormMonitor, RoutingMonitor

allow_targets()

__all__ = [
    "AttentionNormMonitor",
    "DMelPreprocessor",
    "ExpertParallel",
    "GraphCTCModel",
    "GraphCTCModelBPE",
    "OmniRouterConformerEncoder",
    "OmniRouterEncoder",
    "RegisteredEncoder",
    "RoutingMonitor",
    "swap_attention",
    "upcycle",
    "use_graph",
]
