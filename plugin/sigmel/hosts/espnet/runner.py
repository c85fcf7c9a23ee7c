"""Runs an ESPnet program with sigmel's classes among its choices.

`sigmel espnet asr_train --config train.yaml ...` runs `espnet2.bin.asr_train`; `sigmel-espnet` is an alias of
`sigmel espnet`. And `python -m sigmel.hosts.espnet.runner -m espnet2.bin.asr_train ...` stands where `python3` stood,
so that `./run.sh --python "python3 -m sigmel.hosts.espnet.runner"` drives an unmodified recipe.
"""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec

from sigmel.errors import SigmelError, exit_status
from sigmel.hosts.registration import espnet as espnet_registration

# At the top of the module: a spawned worker imports it anew, and must find our classes too.
espnet_registration.register()

OURS = {"asr_inference_graph": "sigmel.hosts.espnet.asr_inference_graph"}  # programs that ESPnet lacks
USAGE = "usage: python -m sigmel.hosts.espnet.runner -m MODULE ARGUMENT... | SCRIPT ARGUMENT... | -c CODE"


def run_module(module: str, arguments: list[str]) -> None:
    """Run a module as `python -m` does.

    Raises:
        SigmelError: there is no such module.
    """
    if find_spec(module) is None:
        raise SigmelError(f"{module}: no such module here; is ESPnet installed? (sigmel doctor)")
    sys.argv = [module, *arguments]
    sys.modules["__main__"] = sys.modules[__name__]  # spawned workers import this module then, which registers
    runpy.run_module(module, run_name="__main__", alter_sys=False)


def run_program(program: str, arguments: list[str]) -> None:
    """Run `espnet2.bin.PROGRAM`, or a program of ours that ESPnet lacks.

    Raises:
        SigmelError: there is no such program.
    """
    if not program.isidentifier():
        raise SigmelError("usage: sigmel espnet PROGRAM ARGUMENT...   (asr_train, asr_inference, pack, ...)")
    run_module(OURS.get(program, f"espnet2.bin.{program}"), arguments)


def run(arguments: list[str]) -> None:
    """Run what `python3 ARGUMENTS` would: a module, a script or a line of code.

    Raises:
        SigmelError: neither a module, a script nor code is given.
    """
    match arguments:
        case ["-m", module, *rest]:
            run_module(module, rest)
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case [script, *rest] if not script.startswith("-"):
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")
        case _:
            raise SigmelError(USAGE)


def console() -> int:
    """The command `sigmel-espnet PROGRAM ARGUMENT...`, an alias of `sigmel espnet`."""
    program, *arguments = sys.argv[1:] or [""]
    return exit_status(lambda: run_program(program, arguments))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: run(sys.argv[1:])))
