"""When an utterance has ended."""

import numpy as np
import pytest

from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.grammar import parse_grammar
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search.endpoint import RULES, EndpointRule, has_ended
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.errors import SigmelError

LEXICON = Lexicon({"turn": ((1,),), "on": ((2,),)})
DECODER = KaldiDecoder(build(("<blk>", "t", "o"), 0, LEXICON, parse_grammar("<x> = turn on;")))


def stream_of(*tokens):
    log_probs = np.full((len(tokens), 3), -12.0, np.float32)
    log_probs[range(len(tokens)), tokens] = -0.01
    stream = DECODER.stream()
    stream.advance(log_probs)
    return stream


@pytest.mark.parametrize(
    ("tokens", "ended"),
    [
        ([0] * 49, False),
        ([0] * 50, True),  # nobody has spoken for five seconds
        ([1, 2] + [0] * 11, False),
        ([1, 2] + [0] * 12, True),
        ([0] * 40 + [1], False),
        ([1] * 200, True),  # far too long
    ],
)
def test_the_rules(tokens, ended):
    assert has_ended(stream_of(*tokens), 0.1) == ended


def test_own_rules():
    stream = stream_of(1, 2, 0)
    assert not has_ended(stream, 0.1, [EndpointRule(silence=0.2)])
    assert has_ended(stream, 0.1, [*RULES, EndpointRule(silence=0.1)])
    assert not has_ended(DECODER.stream(), 0.1)
    with pytest.raises(SigmelError, match="frame_seconds: 0"):
        has_ended(stream, 0)
