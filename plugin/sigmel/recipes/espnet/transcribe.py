"""Transcribe manifests with an archive that ESPnet packed, and time it.

``python -m sigmel.recipes.espnet.transcribe --model model.zip --output DIR test.jsonl other.jsonl`` writes, for each
manifest, its rows with ``pred_text`` (``<name>.jsonl``), those without usable audio (``<name>.skipped.jsonl``;
transcribed as nothing, so that they count as deletions), the time it took (``<name>.timing.json``) and, with
``--routing-stats``, where the router sent the frames (``<name>.routing.json``). The search is ESPnet's own, or, with
``--graph``, of the CTC branch as a graph allows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

from sigmel.decoding.search.decoder import GraphDecoder, add_decoding_options, decoding_options
from sigmel.errors import SigmelError, exit_status
from sigmel.files.atomic import atomic_dir
from sigmel.files.audio import parse_sample_rate, read_audio
from sigmel.files.manifest import read_rows
from sigmel.hosts.espnet.asr_inference_graph import by_graph
from sigmel.hosts.registration import espnet as espnet_registration
from sigmel.routing_study.statistics import WATCHED, watch_routing
from sigmel.scoring.decoded import write_decoded

espnet_registration.register()

Row = dict[str, Any]


def load_model(archive: Path, folder: Path, beam_size: int, kind: type[Speech2Text] = Speech2Text) -> Speech2Text:
    """Build ESPnet's recogniser, whose search weighs CTC and decoder as its training did.

    Args:
        archive: what ESPnet packed, or a ``.pth`` with its ``config.yaml`` beside it.
        folder: where an archive is unpacked.
        beam_size: hypotheses kept.
        kind: ESPnet's recogniser, or one like it.

    Raises:
        SigmelError: there is no such file, or it is no archive of an ESPnet recogniser.
    """
    if not archive.is_file():
        raise SigmelError(f"{archive}: no such model; train one first")
    try:
        files = {"asr_train_config": archive.parent / "config.yaml", "asr_model_file": archive}
        if archive.suffix != ".pth":
            files = unpack(archive, folder)
    except Exception as error:  # a foreign file fails in many ways
        raise SigmelError(f"{archive}: not an archive that ESPnet packed ({error})") from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with open(files["asr_train_config"], encoding="utf-8") as config:
        ctc_weight = yaml.safe_load(config)["model_conf"]["ctc_weight"]
    return kind(**files, device=device, beam_size=beam_size, ctc_weight=ctc_weight, lm_weight=0.0, penalty=0.0)


def transcribe(model: Speech2Text, rows: list[Row]) -> tuple[list[Row], list[Row], float, float]:
    """Transcribe manifest rows, an utterance at a time, as ESPnet does.

    Returns:
        The rows with ``pred_text``; those whose audio could not be used, with a ``reason``; the seconds of audio that
        were transcribed, and the seconds it took, reading included.
    """
    texts, skipped, audio_seconds, started = {}, [], 0.0, time.monotonic()
    for number, (row, samples) in enumerate(read_samples(rows, sample_rate(model))):
        if isinstance(samples, str):
            skipped.append(row | {"pred_text": "", "reason": samples})
            continue
        audio_seconds += len(samples) / sample_rate(model)
        texts[number] = model(samples)[0][0]
    transcribed = [row | {"pred_text": texts.get(number, "")} for number, row in enumerate(rows)]
    return transcribed, skipped, audio_seconds, time.monotonic() - started


def routing_report(model: Speech2Text, rows: list[Row]) -> dict[str, Any] | None:
    """Encode rows once more, untimed, and see where the router sends the frames.

    Returns:
        See `RoutingWatch.report`; None for a model without routers, or where no row has usable audio.
    """
    encoded = []
    with watch_routing(model.asr_model) as watch, torch.inference_mode():
        if watch is None:
            return None
        for row, samples in read_samples(rows, sample_rate(model)):
            if not isinstance(samples, str):
                speech = torch.from_numpy(samples)[None].to(model.device)
                model.asr_model.encode(speech, torch.tensor([len(samples)], device=model.device))
                encoded.append(row)
    hop = model.asr_train_args.frontend_conf.get("window_stride", 0.01)
    return watch.report(encoded, hop) if encoded else None


def read_samples(rows: Iterable[Row], rate: int) -> Iterator[tuple[Row, np.ndarray | str]]:
    """Each row with its samples, or with the reason why its audio cannot be used."""
    for row in rows:
        try:
            samples = read_audio(row["audio_filepath"], rate)[0]
            if len(samples) < rate // 10:
                raise SigmelError(f"{len(samples)} samples are too few to transcribe; need {rate // 10}")
        except (SigmelError, OSError) as error:
            yield row, str(error)
        else:
            yield row, samples


def sample_rate(model: Speech2Text) -> int:
    """Hz, of the model's front end."""
    return parse_sample_rate(model.asr_train_args.frontend_conf.get("fs", 16000))


def main(argv: Sequence[str] | None = None) -> int:
    """Transcribe from the command line."""
    parser = argparse.ArgumentParser(description="Transcribe manifests with a model that ESPnet packed.")
    parser.add_argument("manifests", nargs="+", type=Path, help="manifests (JSON lines)")
    parser.add_argument("--model", type=Path, required=True, help="the archive")
    parser.add_argument("--output", type=Path, required=True, help="folder for the transcripts; must not exist yet")
    parser.add_argument("--beam-size", type=int, default=5, help="hypotheses kept (default: %(default)s)")
    parser.add_argument("--routing-stats", action="store_true", help="also write where the router sent the frames")
    add_decoding_options(parser)
    return run(parser.parse_args(argv))


def run(args: argparse.Namespace) -> int:
    """Transcribe the manifests that `sigmel transcribe` was given."""
    kind = by_graph(GraphDecoder(args.graph, **decoding_options(args))) if args.graph else Speech2Text
    with tempfile.TemporaryDirectory() as unpacked, atomic_dir(args.output) as folder:
        model = load_model(args.model, Path(unpacked), getattr(args, "beam_size", 5), kind)
        for manifest in args.manifests:
            rows = read_rows(manifest)
            print(write_decoded(folder, manifest.stem, *transcribe(model, rows), batch_size=1))
            if args.routing_stats and (report := routing_report(model, rows[:WATCHED])):
                (folder / f"{manifest.stem}.routing.json").write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main))
