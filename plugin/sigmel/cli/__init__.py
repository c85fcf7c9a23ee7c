"""The command ``sigmel``: one verb a module, imported only when it is the verb asked for.

A verb's module offers ``add_arguments(parser)`` and ``run(arguments) -> int``, the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import sigmel
from sigmel.errors import exit_status

VERBS = {
    "list": ("sigmel.cli.listing", "what is registered, and where it comes from"),
    "doctor": ("sigmel.cli.doctor", "what this machine offers, and what is broken"),
    "espnet": ("sigmel.cli.espnet", "let ESPnet's own commands find sigmel's classes, or not"),
    "convert": ("sigmel.checkpoints.convert", "a recogniser of one host into that of the other"),
    "upcycle": ("sigmel.checkpoints.upcycle", "a dense recogniser into one with routed experts, equal to it at first"),
    "dmel": ("sigmel.cli.dmel", "recordings into dMel tokens, and sound of them"),
    "graph": ("sigmel.cli.graph", "graphs to decode with: of a grammar, a language model, phrases"),
    "align": ("sigmel.cli.align", "when each word of known texts was said; CTM and TextGrid files"),
    "lm": ("sigmel.cli.lm", "small n-gram language models"),
    "score": ("sigmel.scoring.errors", "word and character error rates of a decoded set"),
    "results": ("sigmel.scoring.results", "the table of a results.json, printed or written into a README"),
    "compare": ("sigmel.scoring.comparison", "systems trained with several seeds, on the same test sets"),
    "plot": ("sigmel.scoring.plots", "training curves and expert use as PNG files"),
    "routing": ("sigmel.cli.routing", "where a recogniser sends its frames: tables, plots and a page"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status, see `sigmel.errors.exit_status`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # A terminal that cannot show a character is no failure.
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="sigmel", description="Omni-router speech encoders: tools.")
    parser.add_argument("--version", action="version", version=sigmel.__version__)
    return exit_status(lambda: _run(parser, argv))


def _run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    try:
        for verb, (module, summary) in VERBS.items():
            subparser = verbs.add_parser(verb, help=summary, description=f"sigmel {verb}: {summary}.")
            if verb == asked:
                importlib.import_module(module).add_arguments(subparser)
        arguments = parser.parse_args(argv)
        status = importlib.import_module(VERBS[arguments.verb][0]).run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # The reader has seen enough, as in `sigmel list | head -1`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
