"""``sigmel espnet enable``: ESPnet's own commands find sigmel's classes, with no word of sigmel on their lines.

A file in site-packages has `espnet_registration.register` called whenever this Python starts (milliseconds). It is
never installed unasked. Where sigmel is gone, it does nothing.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

from sigmel.files.atomic import atomic_path

NAME = "sigmel_espnet.pth"
# Python executes a line that begins with "import", and goes on with the next file after a traceback.
LINE = (
    "import sys; exec('try:\\n    from sigmel.hosts.registration.espnet import register\\n"
    "except ImportError:\\n    pass\\nelse:\\n    register()')\n"
)


def hook() -> Path:
    """Where the file of this Python is, or would be."""
    return Path(sysconfig.get_path("purelib")) / NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sigmel espnet``."""
    parser.add_argument("action", choices=("enable", "disable", "status"))


def run(args: argparse.Namespace) -> int:
    """Run ``sigmel espnet``."""
    path = hook()
    if args.action == "enable":
        with atomic_path(path) as temporary:
            temporary.write_text(LINE)
    elif args.action == "disable":
        path.unlink(missing_ok=True)
    state = "enabled" if path.exists() else "disabled"
    print(f"ESPnet's own commands know sigmel's classes: {state} ({path})")
    return 0
