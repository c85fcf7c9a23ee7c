"""`sigmel train`: train a model in NeMo or ESPnet, so that a killed run goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.files.atomic import locked
from sigmel.recipes import program


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel train`."""
    parser.add_argument("--host", choices=("nemo", "espnet"), required=True, help="toolkit that trains")
    parser.add_argument(
        "--task", choices=("asr", "tts"), help="what the model learns (default: as --config says, or asr)"
    )
    parser.add_argument(
        "--config", type=Path, action="append", required=True, help="YAML for the host; a later one wins"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder that `sigmel tokenizer` made")
    data = "manifest, or a folder of dMel archives, to"
    parser.add_argument("--train", type=Path, required=True, metavar="DATA", help=f"{data} train on")
    parser.add_argument("--valid", type=Path, required=True, metavar="DATA", help=f"{data} validate with")
    parser.add_argument("--seed", type=int, help="seed of all random numbers (default: as --config says, or 1)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of sigmel's model, wherever the host's configuration has them: routing=omni",
    )
    parser.add_argument(
        "host_options",
        nargs="*",
        metavar="-- HOST OPTION",
        help="overrides of Hydra, or options of asr_train, tts_train",
    )


def run(args: argparse.Namespace) -> int:
    """Train a model, one process at a time in a folder."""
    args.output.mkdir(parents=True, exist_ok=True)
    with locked(args.output, wait=False):
        program(args.host, "train").run(args)
    return 0
