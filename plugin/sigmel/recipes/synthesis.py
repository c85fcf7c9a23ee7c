"""Text into audio with a model of any host: one loop over texts, one writer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import read_audio, write_wav
from sigmel.files.manifest import Utterance, write_manifest
from sigmel.files.sources import read_source


class Synthesiser(NamedTuple):
    """A model of a host that speaks.

    Attributes:
        sample_rate: Hz.
        dmel: tokenizer of a voice's recording; None for a model of one voice.
        speak: gives the waveforms (samples,) of texts, the `voice_print` of their speakers (B, 2 C), or None for a
            model of one voice, and the number of the first text.
    """

    sample_rate: int
    dmel: DMelTokenizer | None
    speak: Callable[[Sequence[str], Tensor | None, int], Iterable[np.ndarray]]


def read_voices(dmel: DMelTokenizer, manifest: Path) -> dict[str, Tensor]:
    """The `voice_print` (2 C,) of each speaker in a manifest, of his or her first recording.

    Raises:
        AudioError: a recording cannot be used.
    """
    voices: dict[str, Tensor] = {}
    for utterance in read_source(manifest):
        if utterance.speaker not in voices:
            samples, _ = read_audio(utterance.audio_filepath, dmel.sample_rate)
            voices[utterance.speaker] = dmel.voice_print(*dmel.encode(torch.from_numpy(samples)))[0]
    return voices


def speak(
    model: Synthesiser, texts: Sequence[Utterance], voices: Path | None, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Say the texts of a manifest, texts of like length together; yield the number of a text and its samples.

    Args:
        model: what speaks.
        texts: the utterances; their audio is ignored.
        voices: manifest of recordings of the speakers, for a model of several voices.
        batch_size: texts at a time.

    Raises:
        SigmelError: `voices` is missing, not wanted, or lacks a speaker.
    """
    if (voices is None) != (model.dmel is None):
        raise SigmelError("--voices: the model " + ("has one voice" if voices else "needs recordings of its speakers"))
    known = {} if model.dmel is None or voices is None else read_voices(model.dmel, voices)
    for text in texts:
        if known and text.speaker not in known:
            raise SigmelError(f"{text.id}: --voices has none for the speaker '{text.speaker}'")
    order = sorted(range(len(texts)), key=lambda number: len(texts[number].text))
    for first in range(0, len(order), batch_size):
        numbers = order[first : first + batch_size]
        voice = torch.stack([known[texts[number].speaker] for number in numbers]) if known else None
        yield from zip(numbers, model.speak([texts[number].text for number in numbers], voice, first), strict=True)


def write_spoken(
    output: Path, texts: Sequence[Utterance], sounds: Iterable[tuple[int, np.ndarray]], sample_rate: int
) -> str:
    """Write `wav/` and a manifest named after the folder, `spoken/spoken.jsonl`, for recognisers and listeners.

    Args:
        output: folder to make; it must not exist yet.
        texts: what is said.
        sounds: the number of a text and its (samples,), in any order.
        sample_rate: Hz.

    Returns:
        A line about it.
    """
    made: dict[int, Utterance] = {}
    began = time.monotonic()
    with atomic_dir(output) as folder:
        (folder / "wav").mkdir()
        for number, samples in tqdm(sounds, output.name, len(texts), unit="utt"):
            file, text = f"wav/{number:05}.wav", texts[number]
            write_wav(folder / file, samples, sample_rate)
            made[number] = Utterance(text.id, file, len(samples) / sample_rate, text.text, text.speaker)
        write_manifest(folder / f"{output.name}.jsonl", (made[number] for number in range(len(texts))))
    seconds, spoken = time.monotonic() - began, sum(utterance.duration for utterance in made.values())
    return f"{output}: {len(made)} texts, {spoken:.0f} s of speech, {spoken / seconds:.1f} x real time"
