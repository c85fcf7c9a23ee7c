"""Say the texts of a manifest with a ``.nemo`` model that has learned to speak.

``python -m sigmel.hosts.nemo.speak --model model.nemo --output spoken texts.jsonl`` writes sound (``spoken/wav/``) and
a manifest of it (``spoken/spoken.jsonl``), which a recogniser can be tried on. A text that the model ends at once is a
file without samples.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nemo.utils import logging
from tqdm import tqdm

from sigmel.data.atomic import atomic_dir
from sigmel.data.audio import read_audio, write_wav
from sigmel.data.manifest import Utterance, read_manifest, write_manifest
from sigmel.data.stage import at_least
from sigmel.errors import SigmelError, exit_status
from sigmel.features.voice_print import voice_print
from sigmel.hosts.nemo.lm import DMelLMModel
from sigmel.hosts.nemo.transcribe import load_model


def voices_of(model: DMelLMModel, manifest: Path) -> dict[str, torch.Tensor]:
    """(2 C,) of each speaker in a manifest: that of his or her first recording, see `voice_print`.

    Raises:
        AudioError: a recording cannot be used.
    """
    voices: dict[str, torch.Tensor] = {}
    for utterance in read_manifest(manifest):
        if utterance.speaker not in voices:
            samples, _ = read_audio(utterance.audio_filepath, model.dmel.sample_rate)
            voices[utterance.speaker] = voice_print(model.dmel, *model.dmel.encode(torch.from_numpy(samples)))[0]
    return voices


def speak(
    model: DMelLMModel,
    utterances: Sequence[Utterance],
    voices: Mapping[str, torch.Tensor] | None,
    folder: Path,
    batch_size: int,
    seed: int,
    **options: Any,
) -> list[Utterance]:
    """Say texts, those of like length together; write ``wav/`` into a folder, and return the rows of a manifest.

    Raises:
        SigmelError: no voice for a speaker, or see `DMelLMModel.speak`.
    """
    for utterance in utterances:
        if voices is not None and utterance.speaker not in voices:
            raise SigmelError(f"{utterance.id}: --voices has none for the speaker '{utterance.speaker}'")
    rate, made = model.dmel.sample_rate, {}
    order = sorted(range(len(utterances)), key=lambda number: len(utterances[number].text))
    (folder / "wav").mkdir()
    for first in tqdm(range(0, len(order), batch_size), "spoken", unit="batch", mininterval=1.0):
        numbers = order[first : first + batch_size]
        chosen = [utterances[number] for number in numbers]
        voice = None if voices is None else torch.stack([voices[utterance.speaker] for utterance in chosen])
        sounds = model.speak([utterance.text for utterance in chosen], voice, seed + first, **options)
        for number, utterance, sound in zip(numbers, chosen, sounds, strict=True):
            file = f"wav/{number:05}.wav"
            write_wav(folder / file, sound, rate)
            made[number] = Utterance(utterance.id, file, len(sound) / rate, utterance.text, utterance.speaker)
    return [made[number] for number in range(len(utterances))]


def main(argv: Sequence[str] | None = None) -> int:
    """Speak from the command line."""
    parser = argparse.ArgumentParser(description="Say the texts of a manifest with a .nemo model.")
    parser.add_argument("texts", type=Path, help="manifest (JSON lines); if it has sound, that is not heard")
    parser.add_argument("--model", type=Path, required=True, help="the .nemo file")
    parser.add_argument("--output", type=Path, required=True, help="folder for the sound; must not exist yet")
    parser.add_argument("--voices", type=Path, help="manifest of recordings, for a model that knows of voices")
    parser.add_argument("--batch-size", type=at_least(1), default=16, help="texts at a time (default: %(default)s)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of the random numbers (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the most probable (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability to draw from")
    parser.add_argument("--max-frames", type=at_least(1), default=1000, help="of a text (default: %(default)s)")
    args = parser.parse_args(argv)
    utterances = list(read_manifest(args.texts))
    logging.setLevel(logging.ERROR)
    model = load_model(args.model)
    if not isinstance(model, DMelLMModel) or model.cfg.task == "asr":
        raise SigmelError(f"{args.model}: has not learned to speak")
    voices = None if args.voices is None else voices_of(model, args.voices)
    options = {"temperature": args.temperature, "top_p": args.top_p, "max_frames": args.max_frames}
    with atomic_dir(args.output) as folder:
        began = time.monotonic()
        made = speak(model, utterances, voices, folder, args.batch_size, args.seed, **options)
        write_manifest(folder / f"{args.output.name}.jsonl", made)
    seconds, spoken = time.monotonic() - began, sum(utterance.duration for utterance in made)
    print(f"{args.output}: {len(made)} texts, {spoken:.0f} s of speech, {spoken / seconds:.1f} x real time")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
