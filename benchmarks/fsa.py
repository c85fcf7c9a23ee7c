#!/usr/bin/env python3
"""Graph decoding on one core: 500 tokens, a bigram, utterances of 1000 frames of 40 ms.

LG has more than 50,000 arcs where its epsilons are removed. Beside k2 where it can be imported: in the environment of
`make test-k2`, .venv-k2/bin/python benchmarks/fsa.py. The frames are those of sentences of the bigram, with noise that
a greedy decoder does not get through without errors.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from harness import Row, compare, milliseconds, options, report, row

from sigmel.decoding.graph.arpa_ngrams import train_ngrams
from sigmel.decoding.graph.build import DecodingGraph, build, build_lg
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.openfst import without_epsilons
from sigmel.decoding.search import k2_backend
from sigmel.decoding.search.graph_decoder import GraphDecoder
from sigmel.decoding.search.search_width import Search
from sigmel.scoring.error_rates import error_rate as rate_of

TOKENS = 500
SMALL, LARGE = (300, 1500), (1000, 6000)  # words, and sentences
FRAMES, SECONDS = 1000, 0.04
BATCH = 4
FASTEST, QUICKEST = 0.01, 1.0  # what is asked for: of real time, and seconds


def corpus(random: np.random.Generator, words: int, sentences: int) -> tuple[Lexicon, list[list[str]]]:
    """Words of two to four tokens, and sentences in which some words are far more frequent than others."""
    spellings = {
        tuple((1 + random.integers(0, TOKENS - 1, random.integers(2, 5))).tolist()): None for _ in range(words)
    }
    lexicon = Lexicon({f"w{number}": (spelling,) for number, spelling in enumerate(spellings)})
    share = 1 / np.arange(1, len(spellings) + 1)
    numbers = [random.choice(len(spellings), 8, p=share / share.sum()) for _ in range(sentences)]
    return lexicon, [[f"w{number}" for number in sentence] for sentence in numbers]


def frames(
    random: np.random.Generator, lexicon: Lexicon, sentences: list[list[str]]
) -> tuple[torch.Tensor, list[str]]:
    """(B, T, V) log-probabilities, and the words they are of."""
    batch, said = [], []
    for number in range(BATCH):
        tokens: list[int] = []
        words: list[str] = []
        while len(tokens) < FRAMES:
            word = sentences[random.integers(len(sentences))][number]
            spelled = [frame for token in lexicon.spellings[word][0] for frame in (token, token, 0)]
            if len(tokens) + len(spelled) > FRAMES:
                tokens += [0] * (FRAMES - len(tokens))
            else:
                tokens, words = tokens + spelled, [*words, word]
        logits = 1.5 * random.standard_normal((FRAMES, TOKENS))
        logits[np.arange(FRAMES), tokens] += 5.0
        batch.append(logits)
        said.append(" ".join(words))
    return torch.from_numpy(np.stack(batch)).float().log_softmax(-1), said


def error_rate(found: list[str], said: list[str]) -> float:
    """Word errors in percent."""
    return rate_of([text.split() for text in said], [text.split() for text in found]).percent


def large(random: np.random.Generator, tokens: tuple[str, ...], search: Search, repeats: int) -> list[Row]:
    """A larger bigram with its epsilons, and without them, as k2 needs it: errors, size, and time."""
    lexicon, sentences = corpus(random, *LARGE)
    model = train_ngrams(sentences, 2)
    log_probs, said = frames(random, lexicon, sentences)
    lengths = torch.full((BATCH,), FRAMES)
    graph = build(tokens, 0, lexicon, model)
    plain = replace(graph, graph=without_epsilons(graph.graph))
    decoders = [GraphDecoder(built, "kaldi", search) for built in (graph, plain)]
    case, peer = f"bigram of {LARGE[0]} words", "the same without epsilons"
    rates = [error_rate([path.text for path in decoder.decode(log_probs, lengths)], said) for decoder in decoders]
    sizes = [decoder.graph.graph.num_arcs / 1000 for decoder in decoders]
    ours, theirs = (lambda decoder=decoder: decoder.decode(log_probs, lengths) for decoder in decoders)
    return [
        row(case, "% WER", rates[0], peer, rates[1], digits=2),
        row(case, "thousand arcs of HLG", sizes[0], peer, sizes[1], digits=None),
        compare(case, ours, peer, theirs, repeats),
    ]


def main() -> None:
    """Run everything."""
    args = options(__doc__, repeats=9)
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    lexicon, sentences = corpus(random, *SMALL)
    model = train_ngrams(sentences, 2)
    log_probs, said = frames(random, lexicon, sentences)
    lengths = torch.full((BATCH,), FRAMES)
    tokens = ("<blk>", *(f"t{number}" for number in range(1, TOKENS)))

    def built() -> DecodingGraph:
        return build(tokens, 0, lexicon, model)

    lg, _ = build_lg(TOKENS, lexicon, model)
    graph = built()
    plain = without_epsilons(lg).num_arcs
    print(f"LG: {lg.num_arcs:,} arcs, {plain:,} without epsilons; HLG: {graph.graph.num_arcs:,} arcs")
    decoder = GraphDecoder(graph, "kaldi", Search(beam=15.0, lattice_beam=6.0))
    greedy = GraphDecoder(build(tokens, 0, lexicon, topology="standard"), "kaldi", decoder.search)
    for name, searched in (("any words", greedy), ("bigram", decoder)):
        print(f"{name}: {error_rate([path.text for path in searched.decode(log_probs, lengths)], said):.2f} % WER")

    real = BATCH * FRAMES * SECONDS * 1000
    took = milliseconds(lambda: decoder.decode(log_probs, lengths), args.repeats) / real
    rows = [row("1-best, beam 15", "of real time, one core", took, "asked for", FASTEST, digits=4)]
    case = f"HLG from the bigram, {plain:,} arcs of LG without epsilons"
    rows.append(row(case, "s", milliseconds(built, args.repeats) / 1000, "asked for", QUICKEST, digits=4))
    rows += large(random, tokens, decoder.search, args.repeats)
    if not k2_backend.problem():
        peer = GraphDecoder(graph, "k2", decoder.search)
        ours, theirs = (lambda of=of: of.lattices(log_probs, lengths) for of in (decoder, peer))
        rows.append(compare("lattice, beams 15 and 6", ours, "k2", theirs, args.repeats))
    report(rows, args.json)


if __name__ == "__main__":
    main()
