"""``sigmel lm``: small n-gram language models for graphs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sigmel.decoding.graph.ngrams import train_ngrams, write_arpa
from sigmel.files.manifest import read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="lm_verb", metavar="VERB", required=True)
    make = verbs.add_parser(
        "train",
        help="an n-gram model of some text",
        description="Train an n-gram language model with modified Kneser-Ney smoothing; for small texts.",
    )
    make.add_argument("texts", nargs="+", type=Path, help="a sentence a line, or manifests (.jsonl) with `text`")
    make.add_argument("--order", type=int, default=3, help="words of the longest n-grams (default: %(default)s)")
    make.add_argument("-o", "--output", type=Path, required=True, help="the model to write (.arpa)")


def run(arguments: argparse.Namespace) -> int:
    """Train and write a model."""
    sentences = [words for path in arguments.texts for words in _sentences(path)]
    model = train_ngrams(sentences, arguments.order)
    write_arpa(model, arguments.output)
    counts = ", ".join(f"{len(ngrams):,} {order}-grams" for order, ngrams in enumerate(model.ngrams, 1))
    print(f"{arguments.output}: {counts} of {len(sentences):,} sentences")
    return 0


def _sentences(path: Path) -> Iterator[list[str]]:
    if path.suffix == ".jsonl":
        yield from (row["text"].split() for row in read_rows(path))
    else:
        yield from (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
