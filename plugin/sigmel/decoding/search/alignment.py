"""Forced alignment: when each word and token of a known text was said, with CTM and TextGrid files of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.grammar import Grammar, sequence
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.tokens import ModelTokens
from sigmel.decoding.search.hypothesis import Hypothesis, Segment
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.decoding.search.search_width import Search
from sigmel.files.atomic import atomic_path

_EVERYTHING = Search(beam=1e9, max_active=2**31 - 1, min_active=0)


def align(
    log_probs: NDArray[np.float32], words: Sequence[str], tokens: ModelTokens, lexicon: Lexicon | None = None
) -> Hypothesis:
    """The most probable alignment of a text.

    Args:
        log_probs: (T, V) log-probabilities of the model's tokens.
        words: the text; of several spellings of a word, the most probable is chosen.
        tokens: the model's tokens.
        lexicon: the spellings of the words; None for those of the model.

    Returns:
        The alignment. With too few frames for the text it is not complete and has a reason.

    Raises:
        SigmelError: the lexicon lacks a word, or the model's tokens cannot spell a word.
    """
    text = Grammar({"text": sequence(words)}, "text")
    graph = build(tokens.names, tokens.blank, lexicon or tokens.lexicon(words), text)
    return KaldiDecoder(graph, _EVERYTHING).best(log_probs)


def confidence(found: Hypothesis, segment: Segment, log_probs: NDArray[np.float32]) -> float:
    """The geometric mean of the probabilities of a word's or a token's frames, from 0 to 1."""
    frames = np.arange(segment.start, segment.end)
    return float(np.exp(log_probs[frames, found.alignment[frames]].mean()))


def ctm_lines(name: str, segments: Sequence[Segment], frame_seconds: float, sure: Sequence[float]) -> list[str]:
    """Lines of a CTM file: recording, channel, start and duration in seconds, word, confidence.

    Args:
        name: the recording.
        segments: words or tokens of the recording.
        frame_seconds: seconds between two frames of the model.
        sure: the confidence of each segment.
    """
    return [
        f"{name} 1 {start * frame_seconds:.3f} {(end - start) * frame_seconds:.3f} {word} {share:.3f}"
        for (word, start, end), share in zip(segments, sure, strict=True)
    ]


def write_textgrid(path: Path, tiers: Mapping[str, Sequence[Segment]], frame_seconds: float, num_frames: int) -> None:
    """Write a TextGrid for Praat, whose tiers have no gaps: stretches between segments get an empty text.

    Args:
        path: the file.
        tiers: name -> segments in their order.
        frame_seconds: seconds between two frames of the model.
        num_frames: frames of the utterance.
    """
    end = f"{num_frames * frame_seconds:.4f}"
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, segments) in enumerate(tiers.items(), 1):
        filled, at = [], 0
        for segment in segments:
            filled += [Segment("", at, segment.start)] * (segment.start > at) + [segment]
            at = segment.end
        filled += [Segment("", at, num_frames)] * (num_frames > at)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(filled)}"]
        for count, (word, start, stop) in enumerate(filled, 1):
            text = word.replace('"', '""')
            lines += [f"        intervals [{count}]:", f"            xmin = {start * frame_seconds:.4f}"]
            lines += [f"            xmax = {stop * frame_seconds:.4f}", f'            text = "{text}"']
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
