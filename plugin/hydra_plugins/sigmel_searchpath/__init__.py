"""Hydra plugin: finds sigmel's NeMo configurations by name and lets NeMo build the classes they name."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from sigmel.hosts.registration.nemo import allow_targets


class SigmelSearchPath(SearchPathPlugin):
    """Adds `sigmel.conf.nemo` and `sigmel.conf` behind the program's own configuration folder."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="sigmel", path="pkg://sigmel.conf.nemo")
        search_path.append(provider="sigmel", path="pkg://sigmel.conf")
        allow_targets()
