"""Endpoints: whether a speaker has finished, by rules like those of Kaldi's online decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sigmel.decoding.search.kaldi_backend import KaldiStream
from sigmel.errors import SigmelError


@dataclass(frozen=True)
class EndpointRule:
    """Conditions which together mean that an utterance has ended.

    Attributes:
        silence: least seconds of blanks at the end of the best path.
        words: whether the best path must have words.
        length: least seconds that were decoded.
    """

    silence: float = 0.0
    words: bool = True
    length: float = 0.0


RULES = (
    EndpointRule(silence=5.0, words=False),  # nobody speaks
    EndpointRule(silence=1.2),
    EndpointRule(length=20.0, words=False),
)


def has_ended(stream: KaldiStream, frame_seconds: float, rules: Sequence[EndpointRule] = RULES) -> bool:
    """Whether the utterance of a stream has ended by any of the rules.

    Args:
        stream: the utterance that is being decoded.
        frame_seconds: seconds between two frames of the model.
        rules: one fulfilled rule is enough.

    Raises:
        SigmelError: `frame_seconds` is not above 0.
    """
    if not frame_seconds > 0:
        raise SigmelError(f"frame_seconds: {frame_seconds} must be more than 0")
    found = stream.partial()
    spoken = max((token.end for token in found.tokens), default=0)
    silence, length = (len(found.alignment) - spoken) * frame_seconds, stream.frames * frame_seconds
    return any(
        silence >= rule.silence and length >= rule.length and (bool(found.words) or not rule.words) for rule in rules
    )
