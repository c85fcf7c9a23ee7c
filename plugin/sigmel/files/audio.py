"""Audio files in and out: mono float32 samples, with errors that name the file."""

from __future__ import annotations

import io
import math
import os
import re
import struct
from pathlib import Path

import numpy as np
import soundfile

from sigmel.errors import SigmelError
from sigmel.files.resampling import resample

_STREAMED = 0xFFFFFF00  # a RIFF size from here on means that the writer did not know the size


class AudioError(SigmelError):
    """An audio file or waveform that cannot be used; the message names it and says why."""


def read_audio(path: str | os.PathLike[str], sample_rate: int | None = None) -> tuple[np.ndarray, int]:
    """Read an audio file as one channel.

    Several channels are averaged. Every format of libsndfile can be read: WAV, FLAC, Ogg, MP3, SPHERE, ...

    Args:
        path: the file.
        sample_rate: in Hz; the audio is resampled to it (needs soxr). None keeps the file's own.

    Returns:
        float32 samples, shape (samples,), and their sample rate in Hz.

    Raises:
        AudioError: the file is missing, not audio, truncated or empty, or holds NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"{path}: no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate, promised = file.samplerate, file.frames
            samples = file.read(dtype="float32", always_2d=True)  # (samples, channels)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read as audio: {error}") from error
    if len(samples) < promised or _is_truncated(path):
        raise AudioError(f"{path}: truncated; its header promises more than is there")
    if not len(samples):
        raise AudioError(f"{path}: holds no samples")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: holds NaN or infinite samples")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if sample_rate is not None and sample_rate != rate:
        return resample(mono, rate, sample_rate), sample_rate
    return mono, rate


def write_wav(path: str | os.PathLike[str], samples: np.ndarray, sample_rate: int) -> None:
    """Write one channel as a 16-bit PCM WAV file.

    The file is written in place: wrap it in `sigmel.files.atomic.atomic_path`, or its folder in
    `sigmel.files.atomic.atomic_dir`, where a killed program must leave nothing half-written.

    Args:
        path: the file.
        samples: shape (samples,), in [-1, 1]; what lies beyond is clipped.
        sample_rate: in Hz.

    Raises:
        AudioError: `samples` is empty, not one-dimensional, or holds NaN or infinity.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1 or not samples.size:
        raise AudioError(f"{path}: expected samples of shape (samples,), got {samples.shape}")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path}: NaN or infinite samples cannot be written")
    encoded = io.BytesIO()  # so that a full disk is Python's error, with its number, and not libsndfile's
    soundfile.write(encoded, np.clip(samples, -1.0, 1.0), sample_rate, subtype="PCM_16", format="WAV")
    Path(path).write_bytes(encoded.getbuffer())


def check_audio(samples: np.ndarray, sample_rate: int, shortest: float = 0.05) -> str | None:
    """The reason why a waveform is unfit for training, if there is one.

    Args:
        samples: shape (samples,), in [-1, 1].
        sample_rate: in Hz.
        shortest: the least duration in seconds.

    Returns:
        `None` for a waveform that can be used, else "too short", "silent" (all zero) or "clipped" (more than one
        sample in a hundred at full scale).
    """
    if len(samples) < shortest * sample_rate:
        return "too short"
    level = np.abs(samples)
    if not level.any():
        return "silent"
    if (level >= 32767 / 32768).mean() > 0.01:
        return "clipped"
    return None


def _is_truncated(path: Path) -> bool:
    """libsndfile silently shortens a file whose end is missing, so compare its header with the file's size."""
    with path.open("rb") as file:
        header = file.read(1024)
    size = path.stat().st_size
    if header[:4] == b"RIFF" and len(header) >= 12:
        (promised,) = struct.unpack("<I", header[4:8])
        # A few bytes are forgiven: some writers count the padding byte of an odd chunk that they did not write.
        return 0 < promised < _STREAMED and promised + 8 > size + 2
    if header[:8] == b"NIST_1A\n":
        fields = dict(re.findall(rb"^(sample_count|channel_count|sample_n_bytes) -i (\d+)$", header, re.MULTILINE))
        return len(fields) == 3 and int(header[8:16]) + math.prod(map(int, fields.values())) > size
    return False


def parse_sample_rate(fs: int | str) -> int:
    """Hz of a sampling rate as a user may write it: 16000, "16000" or, as ESPnet's asr.sh does, "16k".

    Raises:
        SigmelError: the text is not a sampling rate.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(k?)(?:hz)?", str(fs).strip().lower())
    if match is None:
        raise SigmelError(f"fs: {fs!r} is not a sampling rate; write 16000 or 16k")
    return round(float(match[1]) * (1000 if match[2] else 1))
