"""`sigmel tokenizer`: train a SentencePiece tokenizer on the text of manifests."""

from __future__ import annotations

import argparse
from pathlib import Path

from sigmel.files.manifest import read_manifest
from sigmel.tokens.text import TYPES, train_tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel tokenizer`."""
    parser.add_argument("manifests", nargs="+", type=Path, metavar="MANIFEST", help="JSON lines with `text`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to make; must not exist yet")
    parser.add_argument("--type", choices=TYPES, default="unigram", help="kind of pieces (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=64, help="number of pieces (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Train a tokenizer and say how large it is."""
    texts = [utterance.text for manifest in args.manifests for utterance in read_manifest(manifest)]
    size = train_tokenizer(texts, args.output, args.type, args.vocab_size)
    print(f"{args.output}: {size} pieces ({args.type}) from {len(texts)} transcripts")
    return 0
