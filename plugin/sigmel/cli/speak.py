"""`sigmel speak`: the texts of a manifest into audio, by a model of NeMo or ESPnet that has learned to speak."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.checkpoints import host_of
from sigmel.files.manifest import read_manifest
from sigmel.recipes import at_least, program
from sigmel.recipes.synthesis import speak, write_spoken

SAMPLING = ("temperature", "top_p", "max_frames")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel speak`."""
    parser.add_argument("model", type=Path, help="model (.nemo; .zip or .pth of ESPnet)")
    parser.add_argument("texts", type=Path, help="manifest (JSON lines); any audio in it is ignored")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the audio; must not exist yet")
    parser.add_argument("--voices", type=Path, help="manifest of recordings, for a model of several voices")
    parser.add_argument("--batch-size", type=at_least(1), default=16, help="texts at a time (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="seed of the sampling (default: %(default)s)")
    parser.add_argument("--temperature", type=float, help="0 takes the most probable (default: the model's, or 0.9)")
    parser.add_argument("--top-p", type=float, help="share of probability to draw from (default: the model's, or 1)")
    parser.add_argument("--max-frames", type=at_least(1), help="most frames of a text (default: the model's, or 1000)")


def run(args: argparse.Namespace) -> int:
    """Speak texts."""
    texts = list(read_manifest(args.texts))
    options = {name: value for name in SAMPLING if (value := getattr(args, name)) is not None}
    model = program(host_of(args.model), "speak").load(args.model, args.seed, **options)
    sounds = speak(model, texts, args.voices, args.batch_size)
    print(write_spoken(args.output, texts, sounds, model.sample_rate))
    return 0
