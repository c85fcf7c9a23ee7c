"""`python -m sigmel.cli VERB ...`, which equals `sigmel VERB ...`."""

import sys

from sigmel.cli import main

if __name__ == "__main__":
    sys.exit(main())
