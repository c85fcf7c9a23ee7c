#!/usr/bin/env python3
"""Time of a training step for each kind of routing: forward, backward and AdamW on the same real batches.

The models take turns at each batch, so that whatever else the machine does slows all of them. Writes the medians in
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

from lightning.pytorch import seed_everything
from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.utils import logging
from torch import Tensor
from tqdm import tqdm

from sigmel.errors import exit_status
from sigmel.files.atomic import atomic_path
from sigmel.recipes.configuration import read_configuration


def models(args: argparse.Namespace) -> dict[str, EncDecCTCModelBPE]:
    """A new model for each kind of routing, from the same configuration."""
    made = {}
    for routing in args.routing:
        model = read_configuration([args.config]).model
        model.encoder.routing = routing
        model.tokenizer.dir = str(args.tokenizer)
        model.train_ds.manifest_filepath = model.validation_ds.manifest_filepath = str(args.manifest)
        seed_everything(1, verbose=False)
        made[routing] = EncDecCTCModelBPE(cfg=model).train()
    return made


def loss(model: EncDecCTCModelBPE, batch: Sequence[Tensor]) -> Tensor:
    """The loss of NeMo's training step, which itself would need a trainer."""
    signal, signal_lengths, tokens, token_lengths = batch
    scores, lengths, _ = model(input_signal=signal, input_signal_length=signal_lengths)
    found = model.loss(log_probs=scores, targets=tokens, input_lengths=lengths, target_lengths=token_lengths)
    return model.add_auxiliary_losses(found)


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The median milliseconds of a step, by routing; the first step of each model warms up."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Time training steps of the espeak_multidomain recipe.")
    parser.add_argument("--config", type=Path, required=True, help="conf/nemo/<size>.yaml")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the tokenizer")
    parser.add_argument("--manifest", type=Path, required=True, help="training data")
    parser.add_argument("--routing", nargs="+", required=True, help="kinds of routing")
    parser.add_argument("--steps", type=int, default=30, help="steps of each model (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    found = measure(args)
    with atomic_path(args.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    print(", ".join(f"{name}: {value:.0f} ms" for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(exit_status(main))
