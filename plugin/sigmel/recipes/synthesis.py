"""Text into audio with a model of any host: one loop over texts, one writer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sigmel.errors import SigmelError
from sigmel.features.dmel import DMelTokenizer
from sigmel.features.voice_print import voice_print
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import read_audio, write_wav
from sigmel.files.manifest import Utterance, write_manifest
from sigmel.files.sources import read_source


class Synthesiser:
    """A model of a host that speaks.

    Attributes:
        sample_rate: Hz.
        dmel: what makes dMel of a voice's recording; None for a model of one voice.
    """

    sample_rate: int
    dmel: DMelTokenizer | None

    def speak(self, texts: Sequence[str], voices: Tensor | None, number: int) -> Iterable[np.ndarray]:
        """The waveform (samples,) of each text.

        Args:
            texts: what to say.
            voices: (B, 2 C) the `voice_print` of each text's speaker; None for a model of one voice.
            number: that of the first text.
        """
        raise NotImplementedError


def read_voices(dmel: DMelTokenizer, manifest: Path) -> dict[str, Tensor]:
    """The `voice_print` (2 C,) of each speaker in a manifest, of his or her first recording.

    Raises:
        AudioError: a recording cannot be used.
    """
    voices: dict[str, Tensor] = {}
    for utterance in read_source(manifest):
        if utterance.speaker not in voices:
            samples, _ = read_audio(utterance.audio_filepath, dmel.sample_rate)
            voices[utterance.speaker] = voice_print(dmel, *dmel.encode(torch.from_numpy(samples)))[0]
    return voices


def speak(
    model: Synthesiser, texts: Sequence[Utterance], voices: Path | None, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Say texts, those of like length together; yield the number of a text and its samples.

    Args:
        model: what speaks.
        texts: of a manifest, whose own audio does not matter.
        voices: manifest of recordings, for a model of several voices.
        batch_size: texts at a time.

    Raises:
        SigmelError: voices that are missing or not asked for, or no voice of a speaker.
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
    """Write `wav/` and a manifest named after the folder: `spoken/spoken.jsonl`, which a recogniser can be tried on.

    Args:
        output: folder to make; it must not exist yet.
        texts: of a manifest, whose own audio does not matter.
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
