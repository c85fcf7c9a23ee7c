"""What of a manifest a CTC model can be trained on, checked once and before anything starts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from sigmel.errors import SigmelError
from sigmel.files.manifest import Skipped, Utterance, filter_trainable, read_manifest, write_skipped
from sigmel.tokens.text import load_tokenizer, uncovered


def trainable(
    manifest: Path, tokenizer_dir: Path, frame_duration: float, listed: Path
) -> tuple[list[Utterance], list[Skipped]]:
    """Read a manifest and part the utterances CTC can learn from, from those it cannot.

    The latter (no usable audio, no text, or more text than audio) are counted on the screen and listed in a file.

    Args:
        manifest: the manifest.
        tokenizer_dir: folder of the tokenizer, which must be able to spell every transcript.
        frame_duration: seconds between two frames of the encoder.
        listed: the file to list what is left out in; not written where that is nothing.

    Returns:
        The utterances kept, with absolute paths, and those left out.

    Raises:
        SigmelError: naming the manifest and the utterance when its text holds what the tokenizer cannot spell, or
            when no utterance is left.
    """
    tokenizer = load_tokenizer(tokenizer_dir)
    utterances = list(read_manifest(manifest))
    for utterance in utterances:
        if missing := uncovered(tokenizer, utterance.text):
            raise SigmelError(
                f"{manifest}: {utterance.id}: the tokenizer has no piece for {missing} in {utterance.text!r}"
            )

    def frames_needed(text: str) -> int:
        tokens = tokenizer.encode(text)  # CTC wants a frame a token, and a blank between equal ones
        return len(tokens) + sum(a == b for a, b in pairwise(tokens))

    folder = manifest.parent.resolve()
    kept, skipped = filter_trainable(utterances, folder, frame_duration, frames_needed)
    if not kept:
        why = f"; of the {len(skipped)} it holds, the first: {skipped[0].reason}" if skipped else ""
        raise SigmelError(f"{manifest}: no utterance to learn from{why}")
    if skipped:
        write_skipped(listed, skipped)
        print(f"{manifest}: left out {len(skipped)} of {len(utterances)} utterances, see {listed}")
    return [replace(utterance, audio_filepath=str(folder / utterance.audio_filepath)) for utterance in kept], skipped
