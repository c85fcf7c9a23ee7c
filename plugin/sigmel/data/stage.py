"""What the data stages of recipes have in common: one folder, complete or absent, that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sigmel.data.atomic import atomic_dir
from sigmel.data.manifest import Skipped, Utterance, write_manifest, write_skipped
from sigmel.errors import SigmelError


@contextmanager
def data_folder(output: Path, options: Mapping[str, Any]) -> Iterator[Path | None]:
    """Yield a folder to fill, which becomes ``output`` when complete; None where ``output`` is complete already.

    ``config.json`` in it keeps the options.

    Raises:
        SigmelError: ``output`` exists and was made from other options.
    """
    config = output / "config.json"
    if output.exists():
        try:
            made_from = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SigmelError(f"{output} exists but {config} cannot be read; remove the folder: {error}") from error
        changed = [name for name, value in options.items() if made_from.get(name) != value]
        if changed:
            raise SigmelError(f"{output} was made with another {', '.join(changed)}; remove it or choose another")
        print(f"{output}: complete, nothing to do")
        yield None
        return
    with atomic_dir(output) as folder:
        (folder / "config.json").write_text(json.dumps(dict(options), indent=2) + "\n", encoding="utf-8")
        yield folder
    print(f"{output}: complete")


def write_sets(folder: Path, sets: Mapping[str, Sequence[Utterance]], skipped: Sequence[Skipped]) -> None:
    """Write one manifest a set and ``skipped.jsonl``, and say what was written.

    Raises:
        SigmelError: a set is empty.
    """
    for name, utterances in sets.items():
        if not utterances:
            raise SigmelError(f"the set {name} would be empty")
        write_manifest(folder / f"{name}.jsonl", utterances)
        hours = sum(utterance.duration for utterance in utterances) / 3600
        print(f"{name}.jsonl: {len(utterances)} utterances, {hours:.2f} hours")
    write_skipped(folder / "skipped.jsonl", skipped)
    print(f"skipped.jsonl: {len(skipped)}")
