"""The command `sigmel`: one verb a module, imported only when the user asks for that verb.

The module `sigmel.cli.<verb>` offers `add_arguments(parser)` and `run(args) -> int`, the exit status. A verb with
verbs of its own has a `run` for each, which it sets as a default of that verb's parser.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import sigmel
from sigmel.errors import exit_status

GROUPS = {
    "use a model": {
        "transcribe": "audio into text",
        "speak": "text into audio",
        "align": "when each word of known texts was said; CTM and TextGrid files",
    },
    "make a model": {
        "tokenizer": "train a SentencePiece tokenizer on the text of manifests",
        "train": "train a model in NeMo or ESPnet",
        "graph": "graphs to decode with: of a grammar, a language model, phrases",
        "lm": "small n-gram language models",
        "upcycle": "a dense model into one with routed experts, equal to it at first",
        "convert": "a recogniser of one host into that of the other",
    },
    "look inside": {
        "score": "word and character error rates of a decoded set",
        "results": "the table of results.json files, printed, and published in a README",
        "compare": "systems trained with several seeds, on the same test sets",
        "plot": "training curves and expert use as PNG files",
        "routing": "where a recogniser sends its frames: tables, plots and a page",
    },
    "data": {"dmel": "recordings into dMel tokens, and sound of them"},
    "environment": {
        "list": "what is registered, and where it comes from",
        "doctor": "what this machine offers, and what is broken",
        "espnet": "run a program of ESPnet with sigmel's classes",
        "espnet3": "run ESPnet3 with sigmel's classes",
    },
}
VERBS = {verb: summary for verbs in GROUPS.values() for verb, summary in verbs.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status, see `sigmel.errors.exit_status`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character is no failure
    return exit_status(lambda: _run(sys.argv[1:] if argv is None else argv))


def _run(argv: Sequence[str]) -> int:
    asked = next((word for word in argv if not word.startswith("-")), None)
    parser = _parser(asked)
    args, rest = parser.parse_known_args(argv)
    if args.verb == "espnet3":  # whose options are those of ESPnet3
        args.arguments = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args.run(args)


def _parser(asked: str | None) -> argparse.ArgumentParser:
    """The parser of all verbs, of which only the verb that the user asks for has its options."""
    width = max(map(len, VERBS)) + 2
    parser = argparse.ArgumentParser(
        prog="sigmel",
        description="Mixture-of-experts speech encoders, dMel tokens and graph decoding for ESPnet and NeMo.",
        epilog="\n\n".join(
            "\n".join([f"{group}:", *(f"  {verb:{width}}{summary}" for verb, summary in verbs.items())])
            for group, verbs in GROUPS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=sigmel.__version__)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, help="see below; sigmel VERB --help")
    for verb, summary in VERBS.items():
        subparser = verbs.add_parser(verb, description=f"sigmel {verb}: {summary}.")
        if verb == asked:
            module = _module(verb)
            subparser.set_defaults(run=getattr(module, "run", None))
            module.add_arguments(subparser)
    return parser


def _module(verb: str) -> Any:
    """The module of a verb, which makes `list` a module here, too: this file cannot use Python's `list`."""
    return importlib.import_module(f"sigmel.cli.{verb}")
