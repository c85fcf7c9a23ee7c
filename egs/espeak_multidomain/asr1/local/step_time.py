#!/usr/bin/env python3
"""How long a training step takes, kind of routing by kind: forward, backward and AdamW on the same real batches.

The models take turns at each batch, so that whatever else the machine does meets them alike. Writes the medians in
milliseconds as JSON, by routing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from lightning.pytorch import seed_everything
from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.utils import logging
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from sigmel.errors import exit_status
from sigmel.files.atomic import atomic_path


def models(args: argparse.Namespace) -> dict[str, EncDecCTCModelBPE]:
    """A new model for each kind of routing, from the same configuration."""
    made = {}
    for routing in args.routing:
        with initialize_config_dir(str(args.config.parent.absolute()), version_base=None):
            overrides = [f"model.tokenizer.dir={args.tokenizer}", f"model.train_ds.manifest_filepath={args.manifest}"]
            config: DictConfig = compose(args.config.stem, [*overrides, f"model.encoder.routing={routing}"])
        config.model.validation_ds.manifest_filepath = str(args.manifest)
        seed_everything(1, verbose=False)
        made[routing] = EncDecCTCModelBPE(cfg=config.model).train()
    return made


def loss(model: EncDecCTCModelBPE, batch: Sequence[Tensor]) -> Tensor:
    """What NeMo's training step computes, which needs a trainer around it."""
    signal, signal_lengths, tokens, token_lengths = batch
    scores, lengths, _ = model(input_signal=signal, input_signal_length=signal_lengths)
    found = model.loss(log_probs=scores, targets=tokens, input_lengths=lengths, target_lengths=token_lengths)
    return model.add_auxiliary_losses(found)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The median milliseconds of a step, by routing; the first step of each warms up."""
    logging.setLevel(logging.ERROR)
    systems = models(args)
    settings = {"name": "adamw", "lr": 1e-3, "fused": True}
    optimizers = {name: model.setup_optimization(settings)[0] for name, model in systems.items()}
    taken: dict[str, list[float]] = {name: [] for name in systems}
    batches = itertools.cycle(next(iter(systems.values())).train_dataloader())
    for _ in tqdm(range(args.steps + 1), "steps", mininterval=1.0):
        batch = next(batches)
        for name, model in systems.items():
            began = time.perf_counter()
            optimizers[name].zero_grad()
            loss(model, batch).backward()
            optimizers[name].step()
            taken[name].append(1000 * (time.perf_counter() - began))
    return {name: round(statistics.median(values[1:]), 1) for name, values in taken.items()}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time training steps of the espeak_multidomain recipe.")
    parser.add_argument("--config", type=Path, required=True, help="conf/nemo/<size>.yaml")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--manifest", type=Path, required=True, help="training data")
    parser.add_argument("--routing", nargs="+", default=["dense", "switch", "omni", "path:2", "path:4"])
    parser.add_argument("--steps", type=int, default=30, help="of each model (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    found = measure(args)
    with atomic_path(args.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(", ".join(f"{name}: {value:.0f} ms" for name, value in found.items()))


if __name__ == "__main__":
    arguments = parse(None)
    sys.exit(exit_status(lambda: main(arguments)))
