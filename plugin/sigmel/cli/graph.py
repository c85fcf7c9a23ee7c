"""``sigmel graph``: build graphs to decode with, and look at them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from sigmel.cli.table import table
from sigmel.decoding.graph.build import DecodingGraph, build
from sigmel.decoding.graph.grammar import read_grammar
from sigmel.decoding.graph.language import AnyWords, ClassModel, Language
from sigmel.decoding.graph.lexicon import Lexicon
from sigmel.decoding.graph.ngrams import read_arpa
from sigmel.decoding.graph.phrases import BOOST, Phrases, read_phrases
from sigmel.decoding.graph.tokens import BLANKS, ModelTokens, read_tokens
from sigmel.decoding.graph.topology import MAX_ARCS, TOPOLOGIES
from sigmel.errors import SigmelError
from sigmel.files.atomic import atomic_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="graph_verb", metavar="VERB", required=True)
    make = verbs.add_parser(
        "build",
        help="a graph of a model's tokens, spellings and a language model",
        description="Build the graph HLG. Without --lm, --grammar and --words, any words of --lexicon may follow each "
        "other, or any tokens where there is no lexicon either.",
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
    language.add_argument("--words", type=Path, help="words, one a line, any of which may follow each other")
    make.add_argument("--phrases", type=Path, help="phrases to listen for, and classes of them")
    make.add_argument("--boost", type=float, default=BOOST, help="of a word of a phrase (default: %(default)s)")
    make.add_argument(
        "--lm-scale", type=float, default=1.0, help="multiplies scores of --lm and --grammar (default: %(default)s)"
    )
    make.add_argument(
        "--word-score", type=float, default=0.0, help="what every word adds to a path's score (default: %(default)s)"
    )
    make.add_argument("--topology", choices=TOPOLOGIES, default="standard", help="of CTC (default: %(default)s)")
    make.add_argument("--max-arcs", type=int, default=MAX_ARCS, help="refuse a larger one (default: %(default)s)")
    make.add_argument("-o", "--output", type=Path, required=True, help="the graph to write (.npz)")
    make.set_defaults(act=_build)

    draw = verbs.add_parser("draw", help="a picture of a small graph", description="Draw a graph.")
    draw.add_argument("graph", type=Path, help="the graph (.npz)")
    draw.add_argument(
        "-o", "--output", type=Path, required=True, help=".dot, or .svg, .png or .pdf where Graphviz is installed"
    )
    draw.set_defaults(act=_draw)

    info = verbs.add_parser("info", help="how large a graph is", description="Say what a graph consists of.")
    info.add_argument("graph", type=Path, help="the graph (.npz)")
    info.set_defaults(act=_info)


def run(arguments: argparse.Namespace) -> int:
    """Run one verb."""
    arguments.act(arguments)
    return 0


def _build(arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    tokens = _tokens(arguments)
    phrases = read_phrases(arguments.phrases, arguments.boost) if arguments.phrases else None
    language = _language(arguments, phrases)
    lexicon = _lexicon(arguments, tokens, language)
    if phrases and not (language or arguments.lexicon):
        phrases = tokens.phrases(phrases)
    built = build(
        tokens.names,
        tokens.blank,
        lexicon,
        language,
        phrases,
        topology=arguments.topology,
        max_arcs=arguments.max_arcs,
        lm_scale=arguments.lm_scale,
        word_score=arguments.word_score,
    )
    built.save(arguments.output)
    print(f"{arguments.output}: {_size(built)}, in {time.monotonic() - started:.1f} s")


def _tokens(arguments: argparse.Namespace) -> ModelTokens:
    if arguments.tokens.suffix != ".nemo":
        return read_tokens(arguments.tokens, arguments.bpemodel, arguments.blank)
    try:
        from nemo.core import ModelPT
        from nemo.utils import logging

        from sigmel.hosts.nemo.graph import tokens_of
        from sigmel.hosts.nemo.restore import load_model
    except ImportError as error:
        raise SigmelError(f"{arguments.tokens} needs NeMo ({error}): pip install 'sigmel[nemo]'") from error
    logging.setLevel(logging.ERROR)
    return tokens_of(load_model(arguments.tokens, ModelPT, "cpu"))


def _language(arguments: argparse.Namespace, phrases: Phrases | None) -> Language | None:
    if arguments.grammar:
        return read_grammar(arguments.grammar, phrases.rules() if phrases else None)
    language: Language | None = None
    if arguments.lm:
        language = read_arpa(arguments.lm)
    elif arguments.words:
        words = list(dict.fromkeys(arguments.words.read_text(encoding="utf-8").split()))
        if not words:
            raise SigmelError(f"{arguments.words}: there is no word")
        anywhere = [word for phrase in (phrases.anywhere if phrases else ()) for word in phrase.words]
        language = AnyWords(list(dict.fromkeys([*words, *anywhere])))
    if not (phrases and phrases.classes):
        return language
    if language is None:
        raise SigmelError(f"{arguments.phrases}: classes need a --grammar, an --lm or --words that use them")
    return ClassModel(language, phrases.classes)


def _lexicon(arguments: argparse.Namespace, tokens: ModelTokens, language: Language | None) -> Lexicon:
    if arguments.lexicon:
        return tokens.read_lexicon(arguments.lexicon)
    return tokens.lexicon(language.words) if language else tokens.themselves()


def _draw(arguments: argparse.Namespace) -> None:
    found = DecodingGraph.load(arguments.graph)
    text = found.graph.to_dot(["<eps>", *found.tokens], found.lexicon.words)
    with atomic_path(arguments.output) as temporary:
        if arguments.output.suffix == ".dot":
            temporary.write_text(text, encoding="utf-8")
        else:
            _render(text, temporary)


def _render(text: str, path: Path) -> None:
    """Draw what is written in Graphviz's language."""
    try:
        import graphviz
    except ImportError as error:
        raise SigmelError(
            f"{path.name} needs Graphviz: pip install graphviz, and its program dot; or a .dot"
        ) from error
    try:
        path.write_bytes(graphviz.Source(text).pipe(format=path.suffix[1:]))
    except (graphviz.ExecutableNotFound, ValueError) as error:
        raise SigmelError(f"{path.name}: {error}") from error


def _info(arguments: argparse.Namespace) -> None:
    found = DecodingGraph.load(arguments.graph)
    facts = [
        ("states", f"{found.graph.num_states:,}"),
        ("arcs", f"{found.graph.num_arcs:,}"),
        ("words", f"{len(found.lexicon.words) - 1:,}"),
        ("tokens", f"{len(found.tokens):,}"),
        ("blank", f"{found.tokens[found.blank]} ({found.blank})"),
        ("topology", found.topology),
    ]
    print(table(("graph", str(arguments.graph)), facts))


def _size(found: DecodingGraph) -> str:
    words = len(found.lexicon.words) - 1
    return f"{found.graph.num_states:,} states, {found.graph.num_arcs:,} arcs, {words:,} words"
