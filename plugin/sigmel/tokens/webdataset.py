"""dMel in tar files of webdataset: a member ``<key>.dmel`` is an archive of one utterance.

Written by ``sink.write(dmel_sample(id, ids, tokenizer.config, text=...))``, read by
``WebDataset(...).decode(decode_dmel)``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigmel.tokens.archive import DMelArchive, DMelArchiveWriter


def dmel_sample(utterance_id: str, ids: np.ndarray, tokenizer: Mapping[str, Any], **row: Any) -> dict[str, Any]:
    """What webdataset's writers take: ``__key__``, ``dmel`` (bytes) and ``json`` (`row`).

    Args:
        utterance_id: in the key its dots are underlines, as webdataset takes what follows a dot for the type.
        ids: (T, C) uint8, without special frames.
        tokenizer: `DMelTokenizer.config` of what made the ids.
        **row: what else is known, as JSON can say it.

    Raises:
        SigmelError: see `DMelArchiveWriter.write`.
    """
    file = io.BytesIO()
    writer = DMelArchiveWriter(file, tokenizer, utterance_id)
    writer.write(utterance_id, ids)
    writer.close()
    return {"__key__": utterance_id.replace(".", "_"), "dmel": file.getvalue(), "json": {"id": utterance_id, **row}}


def decode_dmel(key: str, data: bytes) -> np.ndarray | None:
    """(T, C) uint8 ids of a member ``*.dmel``; None for any other, which webdataset's next decoder takes."""
    return np.array(DMelArchive(data)[0]) if key.endswith(".dmel") else None
