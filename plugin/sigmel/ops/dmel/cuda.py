"""dMel in Triton: ids in one pass over spectra; sums of embeddings, and gradients, without a tensor of the terms."""

# mypy: allow-untyped-defs
# mypy has no types for the arguments of Triton kernels.

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from sigmel.ops.dispatch import deciding
from sigmel.ops.dmel.reference import MEL_FLOOR, POWER_FLOOR
from sigmel.ops.triton_common import INTERPRETED, device_problem, dot

LOG10_2 = 0.30102999566398120
FRAMES = 16 if INTERPRETED else 64  # of a program
BINS = 64  # of the transform, at once
SIZE = 64  # features of embeddings of a program


def unsupported(inputs: Sequence[Tensor | int]) -> str:
    """Why these kernels cannot serve the arguments of one of the functions below; "" where they can."""
    return device_problem(deciding(inputs))


@triton.jit
def _reached(values, edges, channel, exists, COUNT: tl.constexpr):
    """How many of its channel's edges a value (frames, channels) reaches. A NaN reaches none."""
    ids = tl.zeros(values.shape, tl.int32)
    for i in range(COUNT):
        edge = tl.load(edges + channel * COUNT + i, mask=exists, other=float("inf"))
        ids += (values >= edge[None, :]).to(tl.int32)
    return ids


@triton.jit
def _encode_kernel(log_mel, edges, ids, frames, C, COUNT: tl.constexpr, FRAMES: tl.constexpr, CHANNELS: tl.constexpr):
    frame = tl.program_id(0).to(tl.int64) * FRAMES + tl.arange(0, FRAMES)
    channel = tl.arange(0, CHANNELS)
    at = frame[:, None] * C + channel[None, :]
    exists = (frame[:, None] < frames) & (channel[None, :] < C)
    values = tl.load(log_mel + at, mask=exists, other=0.0)
    tl.store(ids + at, _reached(values, edges, channel, channel < C, COUNT).to(tl.uint8), mask=exists)


@triton.jit
def _encode_spectrum_kernel(
    spectrum,  # (frames, bins, 2)
    filters,  # (C, bins)
    edges,
    ids,
    frames,
    bins,
    C,
    POWER: tl.constexpr,
    MEL: tl.constexpr,
    LOG10: tl.constexpr,
    COUNT: tl.constexpr,
    FRAMES: tl.constexpr,
    BINS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    frame = tl.program_id(0).to(tl.int64) * FRAMES + tl.arange(0, FRAMES)
    channel = tl.arange(0, CHANNELS)
    mel = tl.zeros((FRAMES, CHANNELS), tl.float32)
    for first in range(0, bins, BINS):
        bin = first + tl.arange(0, BINS)
        at = spectrum + (frame[:, None] * bins + bin[None, :]) * 2
        exists = (frame[:, None] < frames) & (bin[None, :] < bins)
        real, imaginary = tl.load(at, mask=exists, other=0.0), tl.load(at + 1, mask=exists, other=0.0)
        power = real * real + imaginary * imaginary
        magnitude = tl.sqrt(tl.where(power < POWER, POWER, power))  # a NaN stays
        weights = tl.load(
            filters + channel[None, :] * bins + bin[:, None],
            mask=(channel[None, :] < C) & (bin[:, None] < bins),
            other=0.0,
        )
        mel = dot(magnitude, weights, mel)
    log_mel = tl.log2(tl.where(mel < MEL, MEL, mel)) * LOG10
    exists = (frame[:, None] < frames) & (channel[None, :] < C)
    found = _reached(log_mel, edges, channel, channel < C, COUNT)
    tl.store(ids + frame[:, None] * C + channel[None, :], found.to(tl.uint8), mask=exists)


@triton.jit
def _embed_kernel(
    ids, tables, output, frames, C, entries, D, FRAMES: tl.constexpr, SIZE: tl.constexpr
):  # a block of features after the other, so that a slice of all tables stays in the cache
    frame = tl.program_id(0).to(tl.int64) * FRAMES + tl.arange(0, FRAMES)
    feature = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    total = tl.zeros((FRAMES, SIZE), tl.float32)
    for channel in range(C):
        entry = tl.load(ids + frame * C + channel, mask=frame < frames, other=0).to(tl.int32)
        exists = (frame[:, None] < frames) & (entry[:, None] < entries) & (feature[None, :] < D)
        at = tables + (channel * entries + entry[:, None]) * D + feature[None, :]
        total += tl.load(at, mask=exists, other=0.0).to(tl.float32)
    exists = (frame[:, None] < frames) & (feature[None, :] < D)
    tl.store(output + frame[:, None] * D + feature[None, :], total.to(output.dtype.element_ty), mask=exists)


@triton.jit
def _embed_backward_kernel(
    grad, ids, tables, frames, C, entries, D, FRAMES: tl.constexpr, ENTRIES: tl.constexpr, SIZE: tl.constexpr
):
    """A program adds up the rows of one channel, as the product of which frame took which entry with the gradients."""
    channel, feature = tl.program_id(0), tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    entry = tl.arange(0, ENTRIES)
    total = tl.zeros((ENTRIES, SIZE), tl.float32)
    for first in range(0, frames, FRAMES):
        frame = (first + tl.arange(0, FRAMES)).to(tl.int64)
        taken = tl.load(ids + frame * C + channel, mask=frame < frames, other=255).to(tl.int32)
        at = grad + frame[:, None] * D + feature[None, :]
        rows = tl.load(at, mask=(frame[:, None] < frames) & (feature[None, :] < D), other=0.0)
        total = dot((entry[:, None] == taken[None, :]).to(tl.float32).to(rows.dtype), rows, total)
    at = tables + (channel * entries + entry[:, None]) * D + feature[None, :]
    exists = (entry[:, None] < entries) & (feature[None, :] < D)
    tl.store(at, total.to(tables.dtype.element_ty), mask=exists)


def encode(log_mel: Tensor, edges: Tensor) -> Tensor:
    """See `reference.encode`."""
    ids = torch.empty(log_mel.shape, dtype=torch.uint8, device=log_mel.device)
    channels, count = edges.shape
    frames = ids.numel() // max(1, channels)
    if frames:
        _encode_kernel[(triton.cdiv(frames, FRAMES),)](
            log_mel.contiguous(), edges.contiguous(), ids, frames, channels, count, FRAMES,
            triton.next_power_of_2(channels),
        )  # fmt: skip
    return ids


def encode_spectrum(spectrum: Tensor, filters: Tensor, edges: Tensor) -> Tensor:
    """See `reference.encode_spectrum`."""
    channels, bins = filters.shape
    ids = torch.empty((*spectrum.shape[:-1], channels), dtype=torch.uint8, device=spectrum.device)
    frames = ids.numel() // max(1, channels)
    if frames:
        _encode_spectrum_kernel[(triton.cdiv(frames, FRAMES),)](
            torch.view_as_real(spectrum.contiguous()), filters.contiguous(), edges.contiguous(), ids, frames, bins,
            channels, POWER_FLOOR, MEL_FLOOR, LOG10_2, edges.shape[1], FRAMES, BINS,
            max(16, triton.next_power_of_2(channels)),
        )  # fmt: skip
    return ids


def embed(ids: Tensor, tables: Tensor) -> Tensor:
    """See `reference.embed`."""
    channels, entries, size = tables.shape
    output = tables.new_empty(len(ids), size)
    if output.numel():
        grid = triton.cdiv(len(ids), FRAMES), triton.cdiv(size, SIZE)
        _embed_kernel[grid](
            ids.contiguous(), tables.contiguous(), output, len(ids), channels, entries, size, FRAMES, SIZE
        )
    return output


def embed_backward(grad: Tensor, ids: Tensor, entries: int) -> Tensor:
    """See `reference.embed_backward`."""
    channels, size = ids.shape[1], grad.shape[1]
    tables = grad.new_empty(channels, entries, size)
    if tables.numel():
        grid = channels, triton.cdiv(size, SIZE)
        _embed_backward_kernel[grid](
            grad.contiguous(), ids.contiguous(), tables, len(ids), channels, entries, size, FRAMES,
            max(16, triton.next_power_of_2(entries)), SIZE,
        )  # fmt: skip
    return tables
