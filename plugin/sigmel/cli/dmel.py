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
from sigmel.features.dmel import DMelTokenizer
from sigmel.features.vocoder import make_vocoder
from sigmel.files.atomic import atomic_path
from sigmel.files.audio import AudioError, read_audio, write_wav
from sigmel.files.manifest import Skipped, Utterance, write_manifest, write_skipped
from sigmel.files.parallel import parallel_map
from sigmel.files.sources import read_source
from sigmel.recipes.options import at_least
from sigmel.tokens.archive import DMelArchive, archives_in, dmel_archive_writer


class Vocoder(NamedTuple):
    """A vocoder of the registry and its options, which can be sent to another process."""

    name: str
    options: tuple[tuple[str, Any], ...]


class Shard(NamedTuple):
    """Utterances that go into one archive."""

    path: Path
    utterances: Sequence[Utterance]

    @property
    def skipped(self) -> Path:
        """Where it is told which utterances could not be read."""
        return self.path.with_suffix(".skipped.jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    verbs = parser.add_subparsers(dest="dmel_verb", metavar="VERB", required=True)
    encode = verbs.add_parser("encode", help="recordings into archives, 1.6 kB a second")
    encode.add_argument("source", type=Path, help="a folder of audio, a manifest (.jsonl), or a list (wav.scp)")
    encode.add_argument(
        "--output", type=Path, required=True, help="folder of archives; what is in it is not made again"
    )
    encode.add_argument("--shard-size", type=at_least(1), default=500, help="utterances a file; default: %(default)s")
    encode.add_argument("--sample-rate", type=at_least(8000), default=16000, help="Hz; default: %(default)s")
    encode.add_argument("--hop-ms", type=float, default=25.0, help="between frames; default: %(default)s")
    encode.add_argument("--bits", type=at_least(1), default=4, help="a channel; default: %(default)s")
    encode.add_argument("--codebook", type=Path, help="own values of the channels instead (.npy)")
    _add_workers(encode)
    decode = verbs.add_parser("decode", help="archives into sound (WAV)")
    decode.add_argument("source", type=Path, help="an archive, or a folder of them")
    decode.add_argument("--output", type=Path, required=True, help="folder; files that are there are not made again")
    decode.add_argument("--id", action="append", help="only this utterance; may be given several times")
    decode.add_argument("--manifest", type=Path, help="write a manifest of the sound here (.jsonl)")
    decode.add_argument("--vocoder", default="phase", help="what makes sound, of `sigmel list`; default: %(default)s")
    decode.add_argument(
        "--vocoder-conf",
        type=_option,
        action="append",
        metavar="NAME=VALUE",
        help="an option of it, its model say",
    )
    _add_workers(decode)
    inspect = verbs.add_parser("inspect", help="what is in archives, or a picture of audio, log-mel, dMel and sound")
    inspect.add_argument("source", type=Path, help="an archive, a folder of them, or an audio file")
    inspect.add_argument("--output", type=Path, help="PNG file to draw")
    inspect.add_argument("--id", help="of an archive, the utterance to draw; default: the first one")
    inspect.add_argument("--bits", type=at_least(1), default=4, help="for an audio file; default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked; 1 if recordings could not be read."""
    return {"encode": _encode, "decode": _decode, "inspect": _inspect}[arguments.dmel_verb](arguments)


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=at_least(1), help="processes; default: one a CPU")
    parser.add_argument("--dask", metavar="ADDRESS", help="work on this Dask cluster instead (tcp://host:port)")


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE, with a value in JSON, or any other text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _encode(arguments: argparse.Namespace) -> int:
    settings = {"hop_ms": arguments.hop_ms, "bits": arguments.bits, "codebook": arguments.codebook}
    tokenizer = DMelTokenizer(arguments.sample_rate, **settings)  # which refuses wrong options
    utterances = read_source(arguments.source)
    parts = range(0, len(utterances), arguments.shard_size)
    shards = [
        Shard(arguments.output / f"{number:05}.dmel", utterances[first : first + arguments.shard_size])
        for number, first in enumerate(parts)
    ]
    to_do = [shard for shard in shards if not _is_done(shard, tokenizer)]
    beyond = {path.name for path in arguments.output.glob("*.dmel")} - {shard.path.name for shard in shards}
    if beyond:
        raise SigmelError(f"{arguments.output}: holds {min(beyond)}, which is not of these recordings; choose another")
    for _ in parallel_map(encode_shard, tokenizer.config, to_do, arguments.workers, "archives", arguments.dask):
        pass
    archives = archives_in(arguments.output)
    skipped = sum(len(shard.skipped.read_text().splitlines()) for shard in shards if shard.skipped.exists())
    print(_facts(archives))
    if skipped:
        print(f"{skipped} of {len(utterances)} recordings could not be read; see {arguments.output}/*.skipped.jsonl")
    return 1 if skipped else 0


def _is_done(shard: Shard, tokenizer: DMelTokenizer) -> bool:
    if not shard.path.exists():
        return False
    rows = DMelArchive(shard.path, tokenizer.config).rows
    known = {utterance.id for utterance in shard.utterances}
    if not {row["id"] for row in rows} <= known:
        raise SigmelError(f"{shard.path}: holds other utterances than it would now; choose another --output")
    return True


def encode_shard(config: dict, shard: Shard) -> None:
    """Write an archive; recordings that cannot be read are told beside it."""
    torch.set_num_threads(1)  # there is a process for each CPU
    tokenizer, skipped = DMelTokenizer(**config), []
    with dmel_archive_writer(shard.path, config) as writer:
        for utterance in shard.utterances:
            try:
                samples, _ = read_audio(utterance.audio_filepath, tokenizer.sample_rate)
            except AudioError as error:
                skipped.append(Skipped(utterance, str(error)))
                continue
            ids, _ = tokenizer.encode(torch.from_numpy(samples))
            row = utterance.to_row() | {"duration": len(samples) / tokenizer.sample_rate}
            del row["id"]
            writer.write(utterance.id, ids[0].numpy(), **row)
        shard.skipped.unlink(missing_ok=True)  # of an earlier run, whose archive was removed
        if skipped:
            write_skipped(shard.skipped, skipped)


def _decode(arguments: argparse.Namespace) -> int:
    archives = archives_in(arguments.source)
    wanted = set(arguments.id or ())
    jobs, listed = [], []
    for archive in archives:
        for row in archive.rows:
            path = (arguments.output / f"{row['id']}.wav").resolve()
            if not path.is_relative_to(arguments.output.resolve()):
                raise SigmelError(f"{archive.name}: the id {row['id']!r} leads out of {arguments.output}")
            if (wanted and row["id"] not in wanted) or row["frames"] < 2:
                continue
            listed.append((row, path))
            if not path.exists():
                jobs.append((archive.name, row["id"], path))
    missing = wanted - {row["id"] for archive in archives for row in archive.rows}
    if missing:
        raise SigmelError(f"{arguments.source}: has no utterance {min(missing)!r}")
    vocoder = Vocoder(arguments.vocoder, tuple(arguments.vocoder_conf or ()))
    _decoder(json.dumps(archives[0].tokenizer), vocoder)  # of which wrong options are told here
    for _ in parallel_map(decode_utterance, vocoder, jobs, arguments.workers, "sound", arguments.dask):
        pass
    if arguments.manifest is not None:
        write_manifest(arguments.manifest, (_said(row, path) for row, path in listed))
    print(f"{arguments.output}: {len(jobs)} made")
    return 0


def _said(row: dict[str, Any], path: Path) -> Utterance:
    """What is said in the sound of an archive's row."""
    text, speaker = (row.get(name, "") for name in ("text", "speaker"))
    return Utterance(row["id"], str(path), soundfile.info(path).duration, text, speaker)


def decode_utterance(vocoder: Vocoder, job: tuple[str, str, Path]) -> None:
    """Write the sound of an utterance: (archive, id, file to write)."""
    name, utterance_id, path = job
    torch.set_num_threads(1)
    archive = _opened(name)
    tokenizer, make_sound = _decoder(json.dumps(archive.tokenizer), vocoder)
    log_mel = tokenizer.decode(torch.from_numpy(np.array(archive[utterance_id]))[None])
    waveform, _ = make_sound(log_mel)
    with atomic_path(path) as temporary:
        write_wav(temporary, waveform[0].numpy(), tokenizer.sample_rate)


@functools.lru_cache(maxsize=4)
def _opened(archive: str) -> DMelArchive:
    """An archive, whose index a process reads once for many of its utterances."""
    return DMelArchive(archive)


@functools.lru_cache(maxsize=1)
def _decoder(settings: str, vocoder: Vocoder) -> tuple[DMelTokenizer, torch.nn.Module]:
    """What makes sound of archives with these settings, in JSON; a process makes it once."""
    tokenizer = DMelTokenizer(**json.loads(settings))
    return tokenizer, make_vocoder(tokenizer, vocoder.name, **dict(vocoder.options))


def _inspect(arguments: argparse.Namespace) -> int:
    is_archive = arguments.source.is_dir() or arguments.source.suffix == ".dmel"
    samples = None
    if is_archive:
        archives = archives_in(arguments.source)
        print(_facts(archives))
        wanted = arguments.id or next((row["id"] for archive in archives for row in archive.rows), "")
        found = [archive[wanted] for archive in archives if any(row["id"] == wanted for row in archive.rows)]
        if arguments.id and not found:
            raise SigmelError(f"{arguments.source}: has no utterance {wanted!r}")
        tokenizer = DMelTokenizer(**archives[0].tokenizer)
        ids = torch.from_numpy(np.array(found[0]))[None] if found else None
    else:
        tokenizer = DMelTokenizer(bits=arguments.bits)
        samples, _ = read_audio(arguments.source, tokenizer.sample_rate)
        ids, _ = tokenizer.encode(torch.from_numpy(samples))
        print(f"{arguments.source}: {len(samples) / tokenizer.sample_rate:.2f} s, {ids.shape[1]} frames")
    if arguments.output and ids is not None:
        from sigmel.features.pictures import draw_dmel

        with atomic_path(arguments.output) as temporary:
            draw_dmel(tokenizer, ids, samples).savefig(temporary, dpi=120)
        print(arguments.output)
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
