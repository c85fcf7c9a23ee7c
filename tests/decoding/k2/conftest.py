"""These tests run real k2, in an environment of its own: make test-k2. Elsewhere they are not collected."""

import importlib.util
import os

collect_ignore_glob = [] if importlib.util.find_spec("k2") or os.environ.get("SIGMEL_K2") else ["test_*.py"]
