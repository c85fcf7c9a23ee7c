"""ESPnet3's recogniser as a system, with a stage that shows what its routers do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import ClassVar

import torch
from espnet3.contract.stages import StageSpec
from espnet3.systems.esp2_asr import system
from hydra.utils import get_class
from tqdm import trange

from sigmel.files.atomic import atomic_path
from sigmel.routing_study.plots import load_per_layer
from sigmel.routing_study.statistics import WATCHED, watch_routing

logger = logging.getLogger(__name__)


class ASRSystem(system.ASRSystem):
    """ESPnet3's ASRSystem with a last stage `routing`, and without the stages of the web demonstration.

    `routing` encodes the first utterances of each test set of the inference configuration, and writes
    `routing.json` (see `RoutingStatistics.summary`) and `routing.png` (the load of each expert in each layer)
    beside the transcripts. A model without routers writes nothing.
    """

    stages: ClassVar[tuple[StageSpec, ...]] = (
        *(stage for stage in system.ASRSystem.stages if not stage.name.endswith("_demo")),
        StageSpec(name="routing", config="inference", log_dir="inference_dir"),
    )

    def routing(self) -> None:
        """Run the stage, see the class."""
        config = self.inference_config
        provider = get_class(config.provider._target_)
        model = provider.build_model(config)
        for test_set in config.dataset.test:
            config.test_set = test_set.name
            dataset = provider.build_dataset(config)
            with watch_routing(model.asr_model) as watch, torch.inference_mode():
                if watch is None:
                    logger.info("routing: the model has no routers")
                    return
                for number in trange(min(len(dataset), WATCHED), desc=f"routing {test_set.name}", unit="utterance"):
                    speech = torch.as_tensor(dataset[number][config.input_key], device=model.device)[None]
                    model.asr_model.encode(speech, torch.tensor([speech.shape[1]], device=model.device))
            folder = Path(config.inference_dir) / test_set.name
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / "routing.json") as temporary:
                temporary.write_text(json.dumps(watch.summary()))
            with atomic_path(folder / "routing.png") as temporary:
                load_per_layer(watch.summary(), test_set.name).savefig(temporary, format="png", dpi=120)
            logger.info("routing: %s", folder / "routing.png")
