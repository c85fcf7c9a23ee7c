"""`sigmel lm`: small n-gram language models for graphs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from sigmel.decoding.graph.arpa_ngrams import train_ngrams, write_arpa
from sigmel.files.manifest import read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of `sigmel lm`."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    train = verbs.add_parser(
        "train",
        help="an n-gram model of texts",
        description="Train an n-gram language model with modified Kneser-Ney smoothing; for small texts.",
    )
    train.add_argument("texts", nargs="+", type=Path, help="a sentence a line, or manifests (.jsonl) with `text`")
    train.add_argument("--order", type=int, default=3, help="words of the longest n-grams (default: %(default)s)")
    train.add_argument("-o", "--output", type=Path, required=True, help="model to write (.arpa)")
    train.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    sentences = [words for path in args.texts for words in _sentences(path)]
    model = train_ngrams(sentences, args.order)
    write_arpa(model, args.output)
    counts = ", ".join(f"{len(ngrams):,} {order}-grams" for order, ngrams in enumerate(model.ngrams, 1))
    print(f"{args.output}: {counts} of {len(sentences):,} sentences")
    return 0


def _sentences(path: Path) -> Iterator[list[str]]:
    """The words of each sentence of a file."""
    if path.suffix == ".jsonl":
        yield from (row["text"].split() for row in read_rows(path))
    else:
        yield from (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
