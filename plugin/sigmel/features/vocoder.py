"""What makes sound of log-mel: any registered vocoder whose log-mel is the tokeniser's."""

from __future__ import annotations

from typing import Any

from torch import nn

from sigmel import registry
from sigmel.errors import SigmelError
from sigmel.features.dmel import DMelTokenizer

MEL = ("sample_rate", "hop_ms", "window_ms", "n_fft", "channels", "low_hz", "high_hz")


def make_vocoder(tokenizer: DMelTokenizer, name: str = "phase", **options: Any) -> nn.Module:
    """A vocoder for a tokeniser's log-mel.

    It is called with log-mel (B, T, C), log10 of mel magnitudes, and (B,) lengths or None, and returns waveforms
    (B, samples) and their (B,) lengths.

    Args:
        tokenizer: whose log-mel is to be heard.
        name: of the kind "vocoder" in the registry. "phase" needs no weights. Default: "phase".
        **options: of the vocoder.

    Raises:
        SigmelError: no such vocoder or option, or one that was made for another log-mel: what its ``config`` says of
            `MEL` differs from the tokeniser's.
    """
    vocoder = registry.build("vocoder", name, tokenizer=tokenizer, **options)
    wrong = [
        f"{key} {vocoder.config[key]:g}, the tokeniser {tokenizer.config[key]:g}"
        for key in MEL
        if abs(vocoder.config[key] - tokenizer.config[key]) > 1e-6 * abs(tokenizer.config[key])
    ]
    if wrong:
        raise SigmelError(f"vocoder {name!r} is for another log-mel: it has " + "; ".join(wrong))
    return vocoder
