"""Forced alignment: when each word and token of a known text was said; as CTM and TextGrid files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.graph import Graph
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.search.hypothesis import Hypothesis, Segment
from sigmel.decoding.search.kaldi_backend import KaldiDecoder
from sigmel.decoding.search.search import Search
from sigmel.files.atomic import atomic_path

_EVERYTHING = Search(beam=1e9, max_active=2**31 - 1, min_active=0)


@dataclass(frozen=True)
class Sentence:
    """A language of one sentence."""

    said: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """Its words."""
        return list(dict.fromkeys(self.said))

    def to_graph(self, numbers: Mapping[str, int], backoff: int) -> Graph:
        """A chain of its words."""
        label = [numbers[word] for word in self.said]
        return Graph.linear(label, label)


def align(
    log_probs: NDArray[np.float32],
    words: Sequence[str],
    tokens: Sequence[str],
    blank: int,
    lexicon: Lexicon,
    topology: str = "standard",
) -> Hypothesis:
    """The most probable alignment of a text.

    Args:
        log_probs: (T, V) log-probabilities of the model's tokens.
        words: the text; where a word has several spellings, the most probable one is chosen.
        tokens: the names of the model's tokens, the blank among them.
        blank: the number of the blank.
        lexicon: how the words are spelled.
        topology: of CTC.

    Returns:
        The alignment; one that is not complete, with a reason, if there are too few frames for the text.

    Raises:
        SigmelError: a word that the lexicon lacks.
    """
    graph = build(tokens, blank, lexicon, Sentence(tuple(words)), topology=topology)
    return KaldiDecoder(graph, _EVERYTHING).best(log_probs)


def confidence(found: Hypothesis, segment: Segment, log_probs: NDArray[np.float32]) -> float:
    """The geometric mean of the probabilities of a word's or a token's frames, from 0 to 1."""
    frames = np.arange(segment.start, segment.end)
    return float(np.exp(log_probs[frames, found.alignment[frames]].mean()))


def ctm_lines(name: str, segments: Sequence[Segment], frame_seconds: float, sure: Sequence[float]) -> list[str]:
    """Lines of a CTM file: recording, channel, start and duration in seconds, word, confidence.

    Args:
        name: of the recording.
        segments: its words.
        frame_seconds: between two frames of the model.
        sure: the confidence of each word.
    """
    return [
        f"{name} 1 {one.start * frame_seconds:.3f} {(one.end - one.start) * frame_seconds:.3f} {one.name} {share:.3f}"
        for one, share in zip(segments, sure, strict=True)
    ]


def write_textgrid(path: Path, tiers: Mapping[str, Sequence[Segment]], frame_seconds: float, num_frames: int) -> None:
    """Write segments for Praat, whose tiers have no gaps: what is between segments gets an empty text.

    Args:
        path: the file.
        tiers: name -> segments in their order.
        frame_seconds: between two frames of the model.
        num_frames: of the utterance.
    """
    end = f"{num_frames * frame_seconds:.4f}"
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, segments) in enumerate(tiers.items(), 1):
        filled, at = [], 0
        for one in segments:
            filled += [Segment("", at, one.start)] * (one.start > at) + [one]
            at = one.end
        filled += [Segment("", at, num_frames)] * (num_frames > at)
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f'        name = "{name}"']
        lines += ["        xmin = 0", f"        xmax = {end}", f"        intervals: size = {len(filled)}"]
        for count, one in enumerate(filled, 1):
            text = one.name.replace('"', '""')
            lines += [f"        intervals [{count}]:"]
            lines += [f"            xmin = {one.start * frame_seconds:.4f}"]
            lines += [f"            xmax = {one.end * frame_seconds:.4f}", f'            text = "{text}"']
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
