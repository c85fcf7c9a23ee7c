#!/usr/bin/env python3
"""Print the speakers of FSDD, one a line: those that --test_speaker of the recipe can leave out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sigmel.errors import exit_status
from sigmel.recipes.corpora import fsdd
from sigmel.recipes.stage import add_download


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Print the speakers of FSDD.")
    add_download(parser, "--fsdd-dir")
    return parser.parse_args(argv)


def show(options: argparse.Namespace) -> None:
    recordings = fsdd.find_recordings(options.fsdd_dir or fsdd.download(options.download_dir))
    print("\n".join(sorted({recording.speaker for recording in recordings})))


if __name__ == "__main__":
    arguments = parse(None)
    sys.exit(exit_status(lambda: show(arguments)))
