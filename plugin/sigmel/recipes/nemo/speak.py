"""Say the texts of a manifest with a ``.nemo`` model that has learned to speak.

``python -m sigmel.recipes.nemo.speak --model model.nemo --output spoken texts.jsonl`` writes sound (``wav/``) and
a manifest of it (``spoken/spoken.jsonl``), which a recogniser can be tried on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nemo.utils import logging

from sigmel.errors import SigmelError, exit_status
from sigmel.features.voice_print import voice_print
from sigmel.files.audio import read_audio
from sigmel.files.manifest import Utterance, read_manifest
from sigmel.files.sources import read_source
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.restore import load_model
from sigmel.recipes.options import at_least
from sigmel.recipes.spoken import write_spoken


def voices_of(model: DMelLMModel, manifest: Path) -> dict[str, torch.Tensor]:
    """(2 C,) of each speaker in a manifest: that of his or her first recording, see `voice_print`.

    Raises:
        AudioError: a recording cannot be used.
    """
    voices: dict[str, torch.Tensor] = {}
    for utterance in read_source(manifest):
        if utterance.speaker not in voices:
            samples, _ = read_audio(utterance.audio_filepath, model.dmel.sample_rate)
            voices[utterance.speaker] = voice_print(model.dmel, *model.dmel.encode(torch.from_numpy(samples)))[0]
    return voices


def say(
    model: DMelLMModel,
    texts: Sequence[Utterance],
    voices: Mapping[str, torch.Tensor] | None,
    batch_size: int,
    seed: int,
    **options: Any,
) -> Iterator[tuple[int, np.ndarray]]:
    """Say texts, those of like length together; yield the number of a text and its samples.

    Raises:
        SigmelError: no voice for a speaker, or see `DMelLMModel.speak`.
    """
    for text in texts:
        if voices is not None and text.speaker not in voices:
            raise SigmelError(f"{text.id}: --voices has none for the speaker '{text.speaker}'")
    order = sorted(range(len(texts)), key=lambda number: len(texts[number].text))
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        voice = None if voices is None else torch.stack([voices[texts[number].speaker] for number in numbers])
        sounds = model.speak([texts[number].text for number in numbers], voice, seed + first, **options)
        yield from zip(numbers, sounds, strict=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Speak from the command line."""
    parser = argparse.ArgumentParser(description="Say the texts of a manifest with a .nemo model.")
    parser.add_argument("texts", type=Path, help="manifest (JSON lines); if it has sound, that is not heard")
    parser.add_argument("--model", type=Path, required=True, help="the .nemo file")
    parser.add_argument("--output", type=Path, required=True, help="folder for the sound; must not exist yet")
    parser.add_argument("--voices", type=Path, help="manifest of recordings, for a model that knows of voices")
    parser.add_argument("--batch-size", type=at_least(1), default=16, help="texts at a time (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.9, help="0: the most probable (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability to draw from")
    parser.add_argument("--max-frames", type=at_least(1), default=1000, help="of a text (default: %(default)s)")
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Speak the texts that `sigmel speak` was given."""
    utterances = list(read_manifest(args.texts))
    logging.setLevel(logging.ERROR)
    model = load_model(args.model, DMelLMModel)
    if model.cfg.task == "asr":
        raise SigmelError(f"{args.model}: has not learned to speak")
    voices = None if args.voices is None else voices_of(model, args.voices)
    options = {"temperature": args.temperature, "top_p": args.top_p, "max_frames": args.max_frames}
    sounds = say(model, utterances, voices, args.batch_size, args.seed, **options)
    print(write_spoken(args.output, utterances, sounds, model.dmel.sample_rate))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
