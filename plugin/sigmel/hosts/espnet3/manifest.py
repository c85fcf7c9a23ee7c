"""sigmel's manifests as data of ESPnet3: `data_src: sigmel.hosts.espnet3.manifest`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espnet3.components.data import dataset_builder
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field

from sigmel.errors import SigmelError
from sigmel.files.audio import read_audio
from sigmel.files.manifest import read_rows


class Dataset(BaseDataset):
    """The utterances of a manifest.

    Args:
        manifest: JSON lines, see `sigmel.files.manifest`.
        sample_rate: Hz of the front end, to which other audio is resampled. Default: 16000.

    Raises:
        SigmelError: the configuration names no manifest, there is no such file, or a line of it is no utterance.
    """

    fields = (Field("speech", "audio"), Field("text", "text"))

    def __init__(self, manifest: str | Path | None, sample_rate: int = 16000) -> None:
        self.rows = _rows(manifest)
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[int(index)]
        return {"speech": read_audio(row["audio_filepath"], self.sample_rate)[0], "text": row["text"]}


class DatasetBuilder(dataset_builder.DatasetBuilder):
    """Builds nothing: manifests are made before, by a recipe's `local/data.py` or by you."""

    def is_built(self, **kwargs: Any) -> bool:
        """True: everything is there."""
        return True

    is_source_prepared = prepare_source = build = is_built


def texts(manifest: str | Path | None) -> list[str]:
    """The transcripts of a manifest, for `tokenizer.text_builder`; raises the errors of `Dataset`."""
    return [row["text"] for row in _rows(manifest)]


def _rows(manifest: str | Path | None) -> list[dict[str, Any]]:
    if manifest is None:
        raise SigmelError("manifests.train or manifests.valid is not set; give the path of a manifest (JSON lines)")
    return read_rows(manifest)
