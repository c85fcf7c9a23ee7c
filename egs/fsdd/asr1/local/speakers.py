#!/usr/bin/env python3
"""Print the speakers of FSDD, one in each line, for `--test_speaker all`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sigmel.errors import exit_status
from sigmel.recipes.corpora import fsdd
from sigmel.recipes.corpus_builder import add_source, source


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the speakers of FSDD.")
    add_source(parser, fsdd.ARCHIVE, Path(__file__).resolve().parents[1])
    recordings = fsdd.find_recordings(source(parser.parse_args(), fsdd.ARCHIVE))
    print("\n".join(sorted({recording.speaker for recording in recordings})))


if __name__ == "__main__":
    sys.exit(exit_status(main))
