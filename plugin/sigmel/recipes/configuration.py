"""Configurations of trainings: YAML files in Hydra's format, for either host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sigmel.errors import SigmelError


def read_configuration(files: Sequence[Path], overrides: Sequence[str] = ()) -> DictConfig:
    """Compose YAML files, each with the `defaults` that it names; later files win.

    Args:
        files: YAML files. A name in `defaults` is looked for beside the file, then in `sigmel.conf.nemo`, then in
            `sigmel.conf`: `/espnet/<name>@_global_`. It may be a path: `../../../../conf/nemo/ctc@_global_`.
        overrides: see Hydra: `trainer.max_steps=100`, `+init_from_nemo_model=model.nemo`.

    Raises:
        SigmelError: a file is missing, or Hydra refuses a file or an override.
    """
    composed = []
    try:
        for file in files:
            if not file.is_file():
                raise SigmelError(f"{file}: no such configuration")
            with initialize_config_dir(str(file.parent.resolve()), version_base=None):
                composed.append(compose(file.stem))
            OmegaConf.set_struct(composed[-1], False)
        ConfigStore.instance().store("sigmel_train", OmegaConf.merge(*composed))
        with initialize(None, version_base=None):
            return compose("sigmel_train", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise SigmelError(f"{', '.join(map(str, files))}: {error}") from error
