"""Vocoders of the registry, which make sound of a dMel tokenizer's log-mel."""

from __future__ import annotations

from typing import Any

from torch import nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.features.dmel_tokenizer import DMelTokenizer

MEL = ("sample_rate", "hop_ms", "window_ms", "n_fft", "channels", "low_hz", "high_hz")


def make_vocoder(tokenizer: DMelTokenizer, name: str = "phase", **options: Any) -> nn.Module:
    """Make a vocoder for a tokenizer's log-mel.

    A vocoder takes log-mel (B, T, C), log10 of mel magnitudes, and (B,) lengths or None, and returns waveforms
    (B, samples) and their (B,) lengths.

    Args:
        tokenizer: made the log-mel.
        name: of the kind "vocoder" in the registry. "phase" needs no weights. Default: "phase".
        **options: of the vocoder.

    Raises:
        SigmelError: no such vocoder or option, or a vocoder for another log-mel, whose `config` differs from the
            tokenizer's in the settings `MEL`.
    """
    vocoder = registry.build("vocoder", name, tokenizer=tokenizer, **options)
    wrong = [
        f"{key} {vocoder.config[key]:g}, the tokenizer {tokenizer.config[key]:g}"
        for key in MEL
        if abs(vocoder.config[key] - tokenizer.config[key]) > 1e-6 * abs(tokenizer.config[key])
    ]
    if wrong:
        raise SigmelError(f"vocoder {name!r} is for another log-mel: it has " + "; ".join(wrong))
    return vocoder
