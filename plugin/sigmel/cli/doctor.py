"""`sigmel doctor`: what this machine offers to sigmel, and what is broken.

Libraries are imported in processes of their own: some take twenty seconds, and a broken one may take its process down.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import pkgutil
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import sigmel
from sigmel import registry
from sigmel.cli.table import table
from sigmel.errors import SigmelError

IMPORT_SECONDS = 180
REQUIRED = ("torch", "soundfile")


class Library(NamedTuple):
    """What sigmel may use.

    Attributes:
        module: what is imported to see whether it works.
        distribution: its name for pip.
        use: what it is for.
        install: how to get it.
    """

    module: str
    distribution: str
    use: str
    install: str


LIBRARIES = {
    "torch": Library("torch", "torch", "required", "pip install torch"),
    "soundfile": Library("soundfile", "soundfile", "required", "pip install soundfile"),
    "nemo": Library("nemo.collections.asr", "nemo_toolkit", "host", "pip install 'sigmel[nemo]'"),
    "lightning": Library("lightning.pytorch", "lightning", "host", "pip install 'sigmel[nemo]'"),
    "espnet": Library("espnet2", "espnet", "host", "pip install espnet, in an environment without NeMo"),
    "espeakng_loader": Library("espeakng_loader", "espeakng-loader", "voices", "pip install 'sigmel[espeak]'"),
    "soxr": Library("soxr", "soxr", "resampling", "pip install 'sigmel[recipes]'"),
    "kaldialign": Library("kaldialign", "kaldialign", "scoring", "pip install 'sigmel[score]'"),
    "jiwer": Library("jiwer", "jiwer", "tests", "pip install 'sigmel[test]'"),
    "matplotlib": Library("matplotlib.figure", "matplotlib", "plots", "pip install 'sigmel[plot]'"),
    "onnxruntime": Library("onnxruntime", "onnxruntime", "tests", "pip install 'sigmel[test]'"),
    "k2": Library("k2", "k2", "decoding", ""),  # see _k2_wheel()
    "triton": Library("triton", "triton", "GPU kernels", "comes with the CUDA builds of torch for Linux"),
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found of one library.

    Attributes:
        name: a key of `LIBRARIES`.
        use: what it is for.
        version: the installed one, or "-".
        state: `ok`, `broken` or `not installed`.
        note: why it is broken, or how to get it.
    """

    name: str
    use: str
    version: str
    state: str
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help=f"fail unless this works; may be repeated: gpu, {', '.join(LIBRARIES)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Prints what was found; 1 when something installed is broken or something required is missing, 0 otherwise."""
    required = [*REQUIRED, *arguments.require]
    for name in required:
        if name != "gpu" and name not in LIBRARIES:
            raise SigmelError(
                f"--require {name}: there is no such name; {registry.nearest(name, ['gpu', *LIBRARIES])}"
            )
    print("importing what is installed; NeMo alone takes about 20 s ...", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        torch_found = pool.submit(_torch_facts)
        plugins = pool.submit(_plugin_problems)
        compiled = pool.submit(_compile_problems)
        findings = list(pool.map(_examine, LIBRARIES))
    torch, gpus = torch_found.result()
    problems = [
        f"{found.name} is {found.state}: {found.note}"
        for found in findings
        if found.state == "broken" or (found.state == "not installed" and found.name in required)
    ]
    if "gpu" in required and not gpus:
        problems.append(f"torch finds no GPU (torch is {torch})")
    problems += plugins.result()
    report = {
        "sigmel": sigmel.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "torch": torch,
        "gpu": gpus,
        "libraries": [dataclasses.asdict(found) for found in findings],
        "kernels": _kernels(["cpu", "cuda"] if gpus else ["cpu"], compiled.result()),
        "problems": problems,
    }
    print(json.dumps(report, indent=2) if arguments.json else _text(report))
    return 1 if problems else 0


def _text(report: dict[str, Any]) -> str:
    facts = [(name, report[name]) for name in ("sigmel", "python", "platform", "torch")]
    facts.append(("gpu", ", ".join(report["gpu"]) or "none"))
    libraries = [tuple(row.values()) for row in report["libraries"]]
    kernels = [(op, device, kind) for op, devices in report["kernels"].items() for device, kind in devices.items()]
    parts = [
        table(("environment", ""), facts),
        table(("library", "for", "version", "state", ""), libraries),
        table(("op", "device", "kernel"), kernels),
    ]
    if report["problems"]:
        parts.append("\n".join(f"problem: {problem}" for problem in report["problems"]))
    return "\n\n".join(parts)


def _examine(name: str) -> Finding:
    """Looks for a library and, if it is installed, imports it."""
    library = LIBRARIES[name]
    try:
        installed = version(library.distribution)
    except PackageNotFoundError:
        return Finding(name, library.use, "-", "not installed", library.install or _k2_wheel())
    _, problem = _python(f"import {library.module}")
    if problem and name == "k2":
        problem += f"; {_k2_wheel()}"
    return Finding(name, library.use, installed, "broken" if problem else "ok", problem)


def _k2_wheel() -> str:
    """Where the wheels of k2 are, asked in a process of its own because the module that knows imports torch."""
    output, _ = _python("from sigmel.decoding.search.k2_backend import k2_wheel; print(k2_wheel())")
    return output.strip()


def _torch_facts() -> tuple[str, list[str]]:
    """torch's version and build in words, and the GPUs it finds."""
    output, _ = _python(
        "import json, torch; cuda = torch.cuda; "
        "print(json.dumps([torch.__version__, torch.version.cuda, "
        "[cuda.get_device_name(i) for i in range(cuda.device_count())]]))"
    )
    if not output:
        return "broken", []
    found, cuda, gpus = json.loads(output.splitlines()[-1])
    return f"{found} ({f'CUDA {cuda}' if cuda else 'CPU build'})", gpus


def _plugin_problems() -> list[str]:
    """Everything registered that cannot be loaded."""
    output, problem = _python(
        "import json\n"
        "from sigmel import registry\n"
        "problems = set()\n"
        "for entry in registry.entries():\n"
        "    try: registry.get(entry.kind, entry.name)\n"
        "    except registry.RegistryError as error: problems.add(str(error))\n"
        "print(json.dumps(sorted(problems)))"
    )
    return json.loads(output.splitlines()[-1]) if output else [f"loading the registered classes: {problem}"]


def _python(code: str) -> tuple[str, str]:
    """Runs code in a Python of its own: what it printed, and why it failed ("" if it did not)."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return "", f"took more than {IMPORT_SECONDS} s to import"
    if done.returncode == 0:
        return done.stdout, ""
    if done.returncode < 0:
        return "", f"killed by {signal.Signals(-done.returncode).name} while it was imported"
    lines = done.stderr.strip().splitlines()
    return "", lines[-1] if lines else f"exited with status {done.returncode} while it was imported"


def _compile_problems() -> dict[str, str]:
    """Why the C++ of an op cannot be compiled here, of each op for which that is so; compiles what is not yet."""
    output, _ = _python(
        "import json, sigmel.ops\n"
        "from pathlib import Path\n"
        "from sigmel.ops.native import native\n"
        "sources = Path(sigmel.ops.__file__).parent.glob('*/cpu.cpp')\n"
        "problems = {source.parent.name: native(source).problem for source in sources}\n"
        "print(json.dumps({op: problem for op, problem in problems.items() if problem}))"
    )
    return json.loads(output.splitlines()[-1]) if output else {}


def _kernels(devices: Iterable[str], broken: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The implementation of each op on each device: the device's own, if the op's folder has one, or the reference."""
    spec = importlib.util.find_spec("sigmel.ops")  # Importing it would import torch, which may be what is broken.
    kernels = {}
    for folder in spec.submodule_search_locations or [] if spec else []:
        for op in pkgutil.iter_modules([folder]):
            if op.ispkg:
                files = {module.name for module in pkgutil.iter_modules([os.path.join(folder, op.name)])}
                kernels[op.name] = {device: device if device in files else "reference" for device in devices}
                if op.name in broken:
                    kernels[op.name]["cpu"] = f"reference: {broken[op.name]}"
    return kernels
