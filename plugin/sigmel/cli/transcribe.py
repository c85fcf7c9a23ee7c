"""`sigmel transcribe`: audio into text, by a model of NeMo or ESPnet."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from sigmel.checkpoints import host_of
from sigmel.decoding.search.graph_decoder import add_decoding_options, decoding_options
from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_dir
from sigmel.files.batches import Row
from sigmel.files.manifest import read_rows
from sigmel.files.sources import read_source
from sigmel.recipes import at_least, program
from sigmel.recipes.transcription import Transcriber, transcribe, transcribe_manifests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel transcribe`."""
    parser.add_argument("model", type=Path, help="model (.nemo; .zip or .pth of ESPnet)")
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio files, folders of audio, manifests (.jsonl), lists (wav.scp), or - for audio on standard input; "
        "with --output, manifests",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help="folder for transcripts and timing (default: print the texts)"
    )
    parser.add_argument("--json", action="store_true", help="print a manifest of the texts (JSON lines)")
    parser.add_argument("--timestamps", action="store_true", help="also give the start and end of each word")
    parser.add_argument(
        "--batch-size", type=at_least(1), default=16, help="utterances at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--routing-stats", action="store_true", help="also write where the routers sent the frames; needs --output"
    )
    parser.add_argument("--host", choices=("nemo", "espnet"), help="toolkit (default: by the suffix of the model)")
    add_decoding_options(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe; 1 if audio could not be used."""
    if args.output and args.json:
        raise SigmelError("--json prints, but with --output nothing is printed: leave out one of them")
    if args.routing_stats and not args.output:
        raise SigmelError("--routing-stats needs --output, a folder to write to")
    with tempfile.TemporaryDirectory() as folder:
        if args.output:
            manifests = {Path(name).stem: read_rows(name) for name in args.inputs}
            if len(manifests) < len(args.inputs):
                raise SigmelError(f"{', '.join(args.inputs)}: two manifests have the same name")
        else:
            rows = [row for name in args.inputs for row in _rows(name, Path(folder))]
        with redirect_stdout(sys.stderr):  # toolkits talk while they are loaded
            load = program(args.host or host_of(args.model), "transcribe").load
            model = load(args.model, args.graph, args.timestamps, **decoding_options(args))
        if not args.output:
            return 0 if _print(model, rows, args.batch_size, args.json) else 1
        with atomic_dir(args.output) as output:
            complete = transcribe_manifests(model, manifests, output, args.batch_size, args.routing_stats)
    return 0 if complete else 1


def _rows(name: str, folder: Path) -> list[Row]:
    """The manifest rows of an input; standard input is kept in a file of the folder."""
    path = Path(name)
    if name == "-":
        path = folder / "stdin"
        path.write_bytes(sys.stdin.buffer.read())
    elif path.is_dir() or path.suffix in (".jsonl", ".scp"):
        return [utterance.to_row() for utterance in read_source(path)]
    return [{"audio_filepath": str(path), "duration": 0.0, "name": name}]


def _print(model: Transcriber, rows: Sequence[Row], batch_size: int, as_json: bool) -> bool:
    """Print the transcripts of rows, a batch at a time; whether all audio could be used."""
    complete = True
    for first in range(0, len(rows), batch_size):
        found = transcribe(model, rows[first : first + batch_size], batch_size)
        reasons = {row["audio_filepath"]: row["reason"] for row in found.skipped}
        complete &= not reasons
        for row in found.rows:
            path, name = row["audio_filepath"], row.get("name", row["audio_filepath"])
            if path in reasons:
                print(f"error: {reasons[path].replace(path, name)}", file=sys.stderr)
                continue
            begin = f"{name}\t" if len(rows) > 1 else ""
            if as_json:
                fields = {"audio_filepath": name, "duration": row["duration"], "text": row["pred_text"]}
                fields |= {"words": row["words"]} if "words" in row else {}
                print(json.dumps(fields, ensure_ascii=False))
            elif "words" in row:
                for word in row["words"]:
                    print(f"{begin}{word['start']:.3f}\t{word['end']:.3f}\t{word['word']}")
            else:
                print(begin + row["pred_text"])
        sys.stdout.flush()
    return complete
