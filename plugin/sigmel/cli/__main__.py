"""`python -m sigmel.cli`, for a Python that has no `sigmel` command beside it."""

import sys

from sigmel.cli import main

sys.exit(main())
