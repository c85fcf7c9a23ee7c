"""`sigmel graph`: build graphs to decode with, and look at them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sigmel.cli.table import table
from sigmel.decoding.graph.arpa_ngrams import read_arpa
from sigmel.decoding.graph.build import DecodingGraph, build
from sigmel.decoding.graph.grammar import read_grammar
from sigmel.decoding.graph.language_models import AnyWords, ClassModel, Language
from sigmel.decoding.graph.phrases import BOOST, Phrases, read_phrases
from sigmel.decoding.graph.tokens import BLANKS, ModelTokens, read_tokens
from sigmel.decoding.graph.topology import MAX_ARCS, TOPOLOGIES
from sigmel.errors import SigmelError, optional_library
from sigmel.files.atomic import atomic_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs of `sigmel graph`."""
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    make = verbs.add_parser(
        "build",
        help="a graph of a model's tokens, spellings and a language model",
        description="Build the graph HLG. Without --lm, --grammar and --words, any words of --lexicon may follow each "
        "other; without --lexicon, too, any tokens.",
    )
    make.add_argument(
        "--tokens",
        type=Path,
        required=True,
        help="a model of NeMo (.nemo), a SentencePiece model or its folder, or a text file with a token a line",
    )
    make.add_argument("--bpemodel", type=Path, help="SentencePiece model that spells with the tokens of a text file")
    make.add_argument("--blank", help=f"name of the blank in a text file (default: {', '.join(BLANKS)})")
    make.add_argument(
        "--lexicon", type=Path, help="spellings: a word and its tokens a line (default: the tokenizer's)"
    )
    language = make.add_mutually_exclusive_group()
    language.add_argument("--lm", type=Path, help="n-gram language model of words (.arpa, .arpa.gz)")
    language.add_argument("--grammar", type=Path, help="grammar of words, in JSGF")
    language.add_argument("--words", type=Path, help="list of words, any of which may follow each other")
    make.add_argument("--phrases", type=Path, help="phrases to boost, and classes of phrases")
    make.add_argument("--boost", type=float, default=BOOST, help="boost of a word of a phrase (default: %(default)s)")
    make.add_argument(
        "--lm-scale", type=float, default=1.0, help="factor of the scores of --lm, --grammar (default: %(default)s)"
    )
    make.add_argument(
        "--word-score", type=float, default=0.0, help="score that every word adds to a path (default: %(default)s)"
    )
    make.add_argument("--topology", choices=TOPOLOGIES, default="standard", help="of CTC (default: %(default)s)")
    make.add_argument("--max-arcs", type=int, default=MAX_ARCS, help="refuse larger graphs (default: %(default)s)")
    make.add_argument("-o", "--output", type=Path, required=True, help="graph to write (.npz)")
    make.set_defaults(run=_build)

    draw = verbs.add_parser("draw", help="a picture of a small graph", description="Draw a graph.")
    draw.add_argument("graph", type=Path, help="graph (.npz)")
    draw.add_argument(
        "-o", "--output", type=Path, required=True, help=".dot, or .svg, .png or .pdf where Graphviz is installed"
    )
    draw.set_defaults(run=_draw)

    info = verbs.add_parser("info", help="the size and parts of a graph", description="Describe a graph.")
    info.add_argument("graph", type=Path, help="graph (.npz)")
    info.set_defaults(run=_info)


def _build(args: argparse.Namespace) -> int:
    started = time.monotonic()
    tokens = _tokens(args)
    phrases = read_phrases(args.phrases, args.boost) if args.phrases else None
    language = _language(args, phrases)
    if args.lexicon:
        lexicon = tokens.read_lexicon(args.lexicon)
    elif language:
        lexicon = tokens.lexicon(language.words)
    else:
        lexicon, phrases = tokens.themselves(), phrases and tokens.phrases(phrases)
    built = build(
        tokens.names,
        tokens.blank,
        lexicon,
        language,
        phrases,
        topology=args.topology,
        max_arcs=args.max_arcs,
        lm_scale=args.lm_scale,
        word_score=args.word_score,
    )
    built.save(args.output)
    size = f"{built.graph.num_states:,} states, {built.graph.num_arcs:,} arcs, {len(built.lexicon.numbers):,} words"
    print(f"{args.output}: {size}, in {time.monotonic() - started:.1f} s")
    return 0


def _tokens(args: argparse.Namespace) -> ModelTokens:
    if args.tokens.suffix == ".nemo":
        from sigmel.hosts.nemo import ctc

        return ctc.read_tokens(args.tokens)
    return read_tokens(args.tokens, args.bpemodel, args.blank)


def _language(args: argparse.Namespace, phrases: Phrases | None) -> Language | None:
    if args.grammar:
        return read_grammar(args.grammar, phrases.rules() if phrases else None)
    language: Language | None = None
    if args.lm:
        language = read_arpa(args.lm)
    elif args.words:
        words = args.words.read_text(encoding="utf-8").split()
        if not words:
            raise SigmelError(f"{args.words}: there is no word")
        words += [word for phrase in (phrases.anywhere if phrases else ()) for word in phrase.words]
        language = AnyWords(list(dict.fromkeys(words)))
    if not (phrases and phrases.classes):
        return language
    if language is None:
        raise SigmelError(f"{args.phrases}: classes need a --grammar, an --lm or --words that use them")
    return ClassModel(language, phrases.classes)


def _draw(args: argparse.Namespace) -> int:
    found = DecodingGraph.load(args.graph)
    text = found.graph.to_dot(["<eps>", *found.tokens], found.lexicon.words)
    with atomic_path(args.output) as temporary:
        if args.output.suffix == ".dot":
            temporary.write_text(text, encoding="utf-8")
        else:
            _render(text, temporary)
    return 0


def _render(text: str, path: Path) -> None:
    """Draw a picture that is described in Graphviz's language."""
    install = "pip install graphviz, and its program dot; or write a .dot file"
    graphviz = optional_library("graphviz", f"{path.name} needs", install)
    try:
        path.write_bytes(graphviz.Source(text).pipe(format=path.suffix[1:]))
    except (graphviz.ExecutableNotFound, ValueError) as error:
        raise SigmelError(f"{path.name}: {error}") from error


def _info(args: argparse.Namespace) -> int:
    found = DecodingGraph.load(args.graph)
    facts = [
        ("states", f"{found.graph.num_states:,}"),
        ("arcs", f"{found.graph.num_arcs:,}"),
        ("words", f"{len(found.lexicon.numbers):,}"),
        ("tokens", f"{len(found.tokens):,}"),
        ("blank", f"{found.tokens[found.blank]} ({found.blank})"),
        ("topology", found.topology),
    ]
    print(table(("graph", str(args.graph)), facts))
    return 0
