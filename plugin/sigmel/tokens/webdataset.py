"""dMel in tar files of webdataset: a member `<key>.dmel` is an archive of one utterance.

It is written by `sink.write(dmel_sample(id, ids, tokenizer.config, text=...))` and read by
`WebDataset(...).decode(decode_dmel)`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigmel.tokens.archive import DMelArchive, DMelArchiveWriter


def dmel_sample(utterance_id: str, ids: np.ndarray, tokenizer: Mapping[str, Any], **row: Any) -> dict[str, Any]:
    """A sample for webdataset's writers: `__key__`, `dmel` (bytes) and `json` (the id and `row`).

    Args:
        utterance_id: dots become underlines in the key, since webdataset takes the rest after a dot for the type.
        ids: (T, C) uint8, without special frames.
        tokenizer: `config` of the `DMelTokenizer` that made the ids.
        **row: other facts, which JSON can hold.

    Raises:
        SigmelError: see `DMelArchiveWriter.write`.
    """
    file = io.BytesIO()
    writer = DMelArchiveWriter(file, tokenizer, utterance_id)
    writer.write(utterance_id, ids)
    writer.close()
    return {"__key__": utterance_id.replace(".", "_"), "dmel": file.getvalue(), "json": {"id": utterance_id, **row}}


def decode_dmel(key: str, data: bytes) -> np.ndarray | None:
    """(T, C) uint8 ids of a member `*.dmel`; None for other members, which webdataset's next decoder takes."""
    return np.array(DMelArchive(data)[0]) if key.endswith(".dmel") else None
