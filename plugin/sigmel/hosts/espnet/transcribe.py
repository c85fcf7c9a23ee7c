"""Transcribe manifests with an archive that ESPnet packed, and time it.

``python -m sigmel.hosts.espnet.transcribe --model model.zip --output DIR test.jsonl other.jsonl`` writes, for each
manifest, its rows with ``pred_text`` (``<name>.jsonl``), those without usable audio (``<name>.skipped.jsonl``;
transcribed as nothing, so that they count as deletions) and the time it took (``<name>.timing.json``). The search is
ESPnet's own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

from sigmel.analysis.decoded import write_decoded
from sigmel.data.atomic import atomic_dir
from sigmel.data.audio import parse_sample_rate, read_audio
from sigmel.data.manifest import read_manifest
from sigmel.errors import SigmelError, exit_status
from sigmel.hosts import espnet_registration

espnet_registration.register()


def load_model(archive: Path, folder: Path, beam_size: int) -> Speech2Text:
    """Unpack an archive into a folder and build ESPnet's recogniser for CTC search.

    Raises:
        SigmelError: there is no such file, or it is no archive of an ESPnet recogniser.
    """
    if not archive.is_file():
        raise SigmelError(f"{archive}: no such model; train one first")
    try:
        files = unpack(archive, folder)
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{archive}: not an archive that ESPnet packed ({error})") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Speech2Text(**files, device=device, beam_size=beam_size, ctc_weight=1.0, lm_weight=0.0, penalty=0.0)


def transcribe(model: Speech2Text, manifest: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], float, float]:
    """Transcribe a manifest, an utterance at a time, as ESPnet does.

    Returns:
        The rows with ``pred_text``; those whose audio could not be used, with a ``reason``; the seconds of audio that
        were transcribed, and the seconds it took, reading included.
    """
    rate = parse_sample_rate(model.asr_train_args.frontend_conf.get("fs", 16000))
    rows, skipped, audio_seconds, started = [], [], 0.0, time.monotonic()
    for utterance in read_manifest(manifest):
        row = utterance.to_row() | {"pred_text": ""}
        rows.append(row)
        try:
            samples = read_audio(manifest.parent / utterance.audio_filepath, rate)[0]
            if len(samples) < rate // 10:
                raise SigmelError(f"{len(samples)} samples are too few to transcribe; need {rate // 10}")
        except (SigmelError, OSError) as error:
            skipped.append(row | {"reason": str(error)})
            continue
        audio_seconds += len(samples) / rate
        row["pred_text"] = model(samples)[0][0]
    return rows, skipped, audio_seconds, time.monotonic() - started


def main(argv: Sequence[str] | None = None) -> int:
    """Transcribe from the command line."""
    parser = argparse.ArgumentParser(description="Transcribe manifests with a model that ESPnet packed.")
    parser.add_argument("manifests", nargs="+", type=Path, help="manifests (JSON lines)")
    parser.add_argument("--model", type=Path, required=True, help="the archive")
    parser.add_argument("--output", type=Path, required=True, help="folder for the transcripts; must not exist yet")
    parser.add_argument("--beam-size", type=int, default=5, help="hypotheses kept (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as unpacked, atomic_dir(args.output) as folder:
        model = load_model(args.model, Path(unpacked), args.beam_size)
        for manifest in args.manifests:
            print(write_decoded(folder, manifest.stem, *transcribe(model, manifest), batch_size=1))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
