"""Plain definitions of dMel's ids and embeddings (arXiv 2407.15835, sections 2.1 and 2.2), and of the derivative.

No function holds a number for each frame, channel and bin at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

POWER_FLOOR = 1e-10  # of a bin, before its magnitude is taken
MEL_FLOOR = 1e-10  # of a channel, before its logarithm is taken


def encode(log_mel: Tensor, edges: Tensor) -> Tensor:
    """(..., C) uint8 ids of (..., C) log-mel: how many edges of its channel, (C, bins - 1), a value reaches."""
    ids = torch.zeros(log_mel.shape, dtype=torch.uint8, device=log_mel.device)
    for edge in edges.unbind(1):
        ids += log_mel >= edge
    return ids


def log_mel(spectrum: Tensor, filters: Tensor) -> Tensor:
    """(..., C) log10 of mel magnitudes of complex (..., bins) spectra, with mel filters (C, bins)."""
    magnitude = torch.view_as_real(spectrum).square().sum(-1).clamp(min=POWER_FLOOR).sqrt()
    return (magnitude @ filters.mT).clamp(min=MEL_FLOOR).log10()


def encode_spectrum(spectrum: Tensor, filters: Tensor, edges: Tensor) -> Tensor:
    """(..., C) uint8 ids of complex (..., bins) spectra."""
    return encode(log_mel(spectrum, filters), edges)


def embed(ids: Tensor, tables: Tensor) -> Tensor:
    """(N, D): for each frame the sum over channels of row `ids[n, c]` of table c, tables (C, V, D)."""
    output = tables.new_zeros(len(ids), tables.shape[2])
    for channel, table in enumerate(tables):
        output += F.embedding(ids[:, channel].long(), table)
    return output


def embed_backward(grad: Tensor, ids: Tensor, entries: int) -> Tensor:
    """(C, V, D) gradients of tables of V entries: of a row, the sum of `grad` (N, D) over its frames."""
    tables = grad.new_zeros(ids.shape[1], entries, grad.shape[1])
    for channel, table in enumerate(tables):
        table.index_add_(0, ids[:, channel].long(), grad)
    return tables
