"""When a speaker has finished: rules on what a stream has decoded so far, as Kaldi's online decoding has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sigmel.decoding.search.kaldi_backend import KaldiStream
from sigmel.errors import SigmelError


@dataclass(frozen=True)
class EndpointRule:
    """An utterance has ended if all of this holds.

    Attributes:
        silence: seconds of blanks at the end of the best path, at least.
        words: whether it has to have words.
        length: seconds that were decoded, at least.
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
    """Whether one of the rules says that the utterance of a stream has ended.

    Args:
        stream: what is being decoded.
        frame_seconds: between two frames of the model.
        rules: any of them suffices.

    Raises:
        SigmelError: ``frame_seconds`` is not above 0.
    """
    if not frame_seconds > 0:
        raise SigmelError(f"frame_seconds: {frame_seconds} must be more than 0")
    found = stream.partial()
    spoken = max((token.end for token in found.tokens), default=0)
    silence, length = (len(found.alignment) - spoken) * frame_seconds, stream.frames * frame_seconds
    return any(
        silence >= rule.silence and length >= rule.length and (bool(found.words) or not rule.words) for rule in rules
    )
