"""`sigmel dmel`: recordings into dMel archives and back, on one machine or a cluster."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch

from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer
from sigmel.features.vocoder import make_vocoder
from sigmel.files.atomic import atomic_path
from sigmel.files.audio import AudioError, read_audio, write_wav
from sigmel.files.manifest import Utterance, read_manifest, write_manifest, write_rows
from sigmel.files.parallel import parallel_map
from sigmel.files.sources import read_source
from sigmel.recipes import at_least
from sigmel.tokens.archive import DMelArchive, archives_in, dmel_archive_writer


class Shard(NamedTuple):
    """Utterances that go into one archive."""

    path: Path
    utterances: Sequence[Utterance]

    @property
    def skipped(self) -> Path:
        """The file that lists the utterances that could not be read."""
        return self.path.with_suffix(".skipped.jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of `sigmel dmel` and their options."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    encode = verbs.add_parser("encode", help="recordings into archives, 1.6 kB a second")
    encode.add_argument("source", type=Path, help="folder of audio, manifest (.jsonl), or list (wav.scp)")
    encode.add_argument(
        "-o", "--output", type=Path, required=True, help="folder of archives; existing archives are not made again"
    )
    encode.add_argument("--shard-size", type=at_least(1), default=500, help="utterances a file (default: %(default)s)")
    encode.add_argument("--sample-rate", type=at_least(8000), default=16000, help="Hz (default: %(default)s)")
    encode.add_argument("--hop-ms", type=float, default=25.0, help="ms between frames (default: %(default)s)")
    encode.add_argument("--bits", type=at_least(1), default=4, help="bits a channel (default: %(default)s)")
    encode.add_argument(
        "--codebook", type=Path, help="values of the bins of each channel, instead of even ones (.npy)"
    )
    encode.set_defaults(run=_encode)
    decode = verbs.add_parser("decode", help="archives into audio (WAV)")
    decode.add_argument("source", type=Path, help="archive, or folder of archives")
    decode.add_argument(
        "-o", "--output", type=Path, required=True, help="folder of audio; existing files are not made again"
    )
    decode.add_argument("--id", action="append", help="only this utterance; may be given several times")
    decode.add_argument("--manifest", type=Path, help="write a manifest of the audio here (.jsonl)")
    decode.add_argument(
        "--vocoder", default="phase", help="name of a vocoder, see `sigmel list` (default: %(default)s)"
    )
    decode.add_argument(
        "--vocoder-conf", type=_option, action="append", default=[], metavar="NAME=VALUE", help="option of the vocoder"
    )
    decode.set_defaults(run=_decode)
    for verb in (encode, decode):
        verb.add_argument("--workers", type=at_least(1), help="processes (default: one a CPU)")
        verb.add_argument("--dask", metavar="ADDRESS", help="work on this Dask cluster instead (tcp://host:port)")
    inspect = verbs.add_parser("inspect", help="what archives hold, or a picture of audio, log-mel, dMel and sound")
    inspect.add_argument("source", type=Path, help="archive, folder of archives, or audio file")
    inspect.add_argument("-o", "--output", type=Path, help="PNG file to draw")
    inspect.add_argument("--id", help="utterance of an archive to draw (default: the first)")
    inspect.add_argument("--bits", type=at_least(1), default=4, help="bits of an audio file (default: %(default)s)")
    inspect.set_defaults(run=_inspect)


def _option(text: str) -> tuple[str, Any]:
    """The name and the value of NAME=VALUE, whose value is JSON or any other text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _encode(args: argparse.Namespace) -> int:
    """Encode recordings; the status is 1 if some could not be read."""
    settings = {"hop_ms": args.hop_ms, "bits": args.bits, "codebook": args.codebook}
    tokenizer = DMelTokenizer(args.sample_rate, **settings)  # refuses wrong options
    utterances = read_source(args.source)
    shards = [
        Shard(args.output / f"{number:05}.dmel", utterances[first : first + args.shard_size])
        for number, first in enumerate(range(0, len(utterances), args.shard_size))
    ]
    to_do = [shard for shard in shards if not _is_done(shard, tokenizer)]
    beyond = {path.name for path in args.output.glob("*.dmel")} - {shard.path.name for shard in shards}
    if beyond:
        raise SigmelError(f"{args.output}: holds {min(beyond)}, which is not of these recordings; choose another")
    for _ in parallel_map(encode_shard, tokenizer, to_do, args.workers, "archives", args.dask):
        pass
    print(_facts(archives_in(args.output)))
    skipped = sum(len(_skipped(shard)) for shard in shards)
    if skipped:
        print(f"{skipped} of {len(utterances)} recordings could not be read; see {args.output}/*.skipped.jsonl")
    return 1 if skipped else 0


def _is_done(shard: Shard, tokenizer: DMelTokenizer) -> bool:
    """Whether the archive exists.

    Raises:
        SigmelError: the archive is of other utterances, or was made with other settings.
    """
    if not shard.path.exists():
        return False
    held = {row["id"] for row in DMelArchive(shard.path, tokenizer.config).rows}
    wanted = {utterance.id for utterance in shard.utterances}
    if not held <= wanted <= held | _skipped(shard):
        raise SigmelError(f"{shard.path}: holds other utterances than the source has now; choose another --output")
    return True


def _skipped(shard: Shard) -> set[str]:
    """The ids of a shard's utterances that could not be read."""
    return {utterance.id for utterance in read_manifest(shard.skipped)} if shard.skipped.exists() else set()


def encode_shard(tokenizer: DMelTokenizer, shard: Shard) -> None:
    """Write an archive, and beside it a list of the recordings that cannot be read."""
    torch.set_num_threads(1)  # each CPU has a process
    skipped = []
    with dmel_archive_writer(shard.path, tokenizer.config) as writer:
        for utterance in shard.utterances:
            try:
                samples, _ = read_audio(utterance.audio_filepath, tokenizer.sample_rate)
            except AudioError as error:
                skipped.append(utterance.to_row() | {"reason": str(error)})
                continue
            ids, _ = tokenizer.encode(torch.from_numpy(samples))
            row = utterance.to_row() | {"duration": len(samples) / tokenizer.sample_rate}
            del row["id"]
            writer.write(utterance.id, ids[0].numpy(), **row)
        shard.skipped.unlink(missing_ok=True)  # written by an earlier run, whose archive was removed
        if skipped:
            write_rows(shard.skipped, skipped)


def _decode(args: argparse.Namespace) -> int:
    archives = archives_in(args.source)
    wanted = set(args.id or ())
    jobs, listed = [], []
    for archive in archives:
        for row in archive.rows:
            path = (args.output / f"{row['id']}.wav").resolve()
            if not path.is_relative_to(args.output.resolve()):
                raise SigmelError(f"{archive.name}: the id {row['id']!r} leads out of {args.output}")
            if (wanted and row["id"] not in wanted) or row["frames"] < 2:
                continue
            listed.append((row, path))
            if not path.exists():
                jobs.append((archive.name, row["id"], path))
    missing = wanted - {row["id"] for archive in archives for row in archive.rows}
    if missing:
        raise SigmelError(f"{args.source}: has no utterance {min(missing)!r}")
    tokenizer = DMelTokenizer(**archives[0].tokenizer)
    decoder = tokenizer, make_vocoder(tokenizer, args.vocoder, **dict(args.vocoder_conf))
    for _ in parallel_map(decode_utterance, decoder, jobs, args.workers, "audio", args.dask):
        pass
    if args.manifest is not None:
        write_manifest(args.manifest, (_said(row, path) for row, path in listed))
    print(f"{args.output}: {len(jobs)} made")
    return 0


def _said(row: dict[str, Any], path: Path) -> Utterance:
    """The utterance whose audio was made from an archive's row."""
    text, speaker = (row.get(name, "") for name in ("text", "speaker"))
    return Utterance(row["id"], str(path), soundfile.info(path).duration, text, speaker)


def decode_utterance(decoder: tuple[DMelTokenizer, torch.nn.Module], job: tuple[str, str, Path]) -> None:
    """Write the audio of an utterance; a job is an archive, an id and the file to write."""
    (tokenizer, vocoder), (archive, utterance_id, path) = decoder, job
    torch.set_num_threads(1)
    log_mel = tokenizer.decode(torch.from_numpy(np.array(_opened(archive)[utterance_id]))[None])
    waveform, _ = vocoder(log_mel)
    with atomic_path(path) as temporary:
        write_wav(temporary, waveform[0].numpy(), tokenizer.sample_rate)


@functools.lru_cache(maxsize=4)
def _opened(archive: str) -> DMelArchive:
    """An archive; a process reads its index once for many utterances."""
    return DMelArchive(archive)


def _inspect(args: argparse.Namespace) -> int:
    is_archive = args.source.is_dir() or args.source.suffix == ".dmel"
    samples = None
    if is_archive:
        archives = archives_in(args.source)
        print(_facts(archives))
        wanted = args.id or next((row["id"] for archive in archives for row in archive.rows), "")
        found = [archive[wanted] for archive in archives if any(row["id"] == wanted for row in archive.rows)]
        if args.id and not found:
            raise SigmelError(f"{args.source}: has no utterance {wanted!r}")
        tokenizer = DMelTokenizer(**archives[0].tokenizer)
        ids = torch.from_numpy(np.array(found[0]))[None] if found else None
    else:
        tokenizer = DMelTokenizer(bits=args.bits)
        samples, _ = read_audio(args.source, tokenizer.sample_rate)
        ids, _ = tokenizer.encode(torch.from_numpy(samples))
        print(f"{args.source}: {len(samples) / tokenizer.sample_rate:.2f} s, {ids.shape[1]} frames")
    if args.output and ids is not None:
        from sigmel.features.plots import draw_dmel

        with atomic_path(args.output) as temporary:
            draw_dmel(tokenizer, ids, samples).savefig(temporary, dpi=120)
        print(args.output)
    return 0


def _facts(archives: Sequence[DMelArchive]) -> str:
    tokenizer = archives[0].tokenizer
    rows = [row for archive in archives for row in archive.rows]
    seconds = sum(row["frames"] for row in rows) * tokenizer["hop_ms"] / 1000
    size = sum(Path(archive.name).stat().st_size for archive in archives)
    bins = "own values" if tokenizer["codebook"] else f"{tokenizer['bits']} bits"
    facts = {
        "archives": f"{len(archives)}",
        "utterances": f"{len(rows)}",
        "hours": f"{seconds / 3600:.2f}",
        "size": f"{size / 1e6:.1f} MB, {size / max(seconds, 1e-9):.0f} bytes a second",
        "frames": f"{tokenizer['channels']} channels of {bins}, every {tokenizer['hop_ms']:g} ms",
        "log-mel": f"{tokenizer['sample_rate']} Hz, {tokenizer['low_hz']:g} to {tokenizer['high_hz']:g} Hz",
    }
    return "\n".join(f"{name + ':':12}{fact}" for name, fact in facts.items())
