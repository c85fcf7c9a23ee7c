"""Log-probabilities of a trained model, and what real k2 makes of them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sigmel.decoding.graph.arpa_ngrams import train_ngrams
from sigmel.decoding.graph.build import build
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.topology import TOPOLOGIES
from sigmel.decoding.search.search_width import Search

GOLDEN = Path(__file__).parent / "golden" / "commands.json"


@pytest.fixture(scope="session")
def golden():
    """`decode(decoder_class_or_function)` for every topology, and `found`, what k2 found.

    Five commands in voices that the model had not heard, by the recogniser of egs/espeak_commands/asr1, with a bigram.
    """
    facts = json.loads(GOLDEN.read_text())
    with np.load(GOLDEN.with_suffix(".npz")) as arrays:
        log_probs = torch.from_numpy(arrays["log_probs"].astype(np.float32))
        lengths = torch.from_numpy(arrays["lengths"])
    lexicon = Lexicon({word: tuple(map(tuple, spelled)) for word, spelled in facts["spellings"].items()})
    bigram = train_ngrams([text.split() for text in facts["texts"]] + [[word] for word in lexicon.spellings], 2)
    search = Search(beam=30.0, lattice_beam=6.0)

    def decode(make):
        found = {}
        for topology in TOPOLOGIES:
            built = build(facts["tokens"], len(facts["tokens"]) - 1, lexicon, bigram, topology=topology)
            decoder = make(built, search)
            found[topology] = [
                {
                    "words": [list(word) for word in path.words],
                    "alignment": path.alignment.tolist(),
                    "score": round(path.score, 4),
                    "nbest": [one.text for one in lattice.nbest(3)],
                    "arcs": lattice.paths.num_arcs,
                }
                for path, lattice in zip(
                    decoder.decode(log_probs, lengths), decoder.lattices(log_probs, lengths), strict=True
                )
            ]
        return found

    def check(found):
        assert found.keys() == facts["found"].keys()
        for topology, expected in facts["found"].items():
            for one, other in zip(found[topology], expected, strict=True):
                assert one["score"] == pytest.approx(other["score"], abs=2e-3)
                assert one["arcs"] == pytest.approx(other["arcs"], rel=0.01)  # but for those at the threshold
                for name in ("words", "alignment", "nbest"):
                    assert one[name] == other[name]

    return SimpleNamespace(decode=decode, check=check, facts=facts, path=GOLDEN)
