"""The recordings that a command is given: a folder, a manifest, or a `wav.scp` list of Kaldi and ESPnet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import soundfile

from sigmel.errors import SigmelError, reading
from sigmel.files.manifest import Utterance, read_manifest

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".sph", ".opus"}


def read_source(source: Path) -> list[Utterance]:
    """The utterances of a source, with absolute paths; a duration or text that the source does not have is 0 or empty.

    Args:
        source: a folder, searched through for audio files, whose ids are their paths without the suffix; a manifest
            `*.jsonl`; or a list `*.scp` of an id and a path a line.

    Raises:
        SigmelError: a source of another kind, without utterances, or with two utterances of one id.
    """
    if source.is_dir():
        files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
        names = [file.relative_to(source).with_suffix("").as_posix() for file in files]
        found = [Utterance(name, str(file.resolve()), 0.0) for name, file in zip(names, files, strict=True)]
    elif source.suffix == ".jsonl":
        found = [utterance.within(source.parent) for utterance in read_manifest(source)]
    elif source.suffix == ".scp":
        found = list(_of_list(source))
    else:
        raise SigmelError(f"{source}: expected a folder, a manifest (.jsonl) or a list (.scp)")
    if not found:
        raise SigmelError(f"{source}: holds no audio")
    seen: set[str] = set()
    for utterance in found:
        if utterance.id in seen:
            raise SigmelError(f"{source}: two utterances have the id {utterance.id!r}")
        seen.add(utterance.id)
    return found


def _of_list(source: Path) -> Iterator[Utterance]:
    with reading(source, "a list in UTF-8"):
        lines = source.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        utterance_id, _, path = line.strip().partition(" ")
        path = path.strip()
        if not line.strip():
            continue
        if not path or path.endswith("|"):
            what = "a command" if path else "no path"
            raise SigmelError(
                f"{source}:{number}: {utterance_id} has {what}; expected an id and the path of an audio file"
            )
        yield Utterance(id=utterance_id, audio_filepath=str((source.parent / path).resolve()), duration=0.0)
