"""`sigmel espnet`: run a program of ESPnet with sigmel's classes, or let ESPnet's own commands find them.

`sigmel espnet asr_train --config train.yaml ...` runs `espnet2.bin.asr_train`. `sigmel espnet enable` writes a file
into site-packages that calls `sigmel.hosts.registration.espnet.register` whenever this Python starts (milliseconds),
so that ESPnet's own commands find sigmel's classes, too. The file is never installed unasked, and does nothing where
sigmel is gone.
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
    """The file of this Python that registers sigmel's classes, whether it exists or not."""
    return Path(sysconfig.get_path("purelib")) / NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel espnet`."""
    parser.add_argument(
        "program",
        metavar="PROGRAM",
        help="asr_train, asr_inference, asr_inference_graph, pack, ... of ESPnet; or enable, disable or status",
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the program")


def run(args: argparse.Namespace) -> int:
    """Run a program, or switch the file in site-packages."""
    path = hook()
    if args.program == "enable":
        with atomic_path(path) as temporary:
            temporary.write_text(LINE)
    elif args.program == "disable":
        path.unlink(missing_ok=True)
    elif args.program != "status":
        from sigmel.hosts.espnet.runner import run_program

        run_program(args.program, args.arguments)
        return 0
    state = "enabled" if path.exists() else "disabled"
    print(f"ESPnet's own commands know sigmel's classes: {state} ({path})")
    return 0
