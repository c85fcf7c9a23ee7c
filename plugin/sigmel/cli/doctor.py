"""`sigmel doctor`: what this machine offers to sigmel, and what is broken.

Libraries are imported in processes of their own: some take twenty seconds, and a broken one may take its process down.
"""

from __future__ import annotations

import argparse
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


class Library(NamedTuple):
    """A library that sigmel may use.

    Attributes:
        module: imported to see whether the library works.
        distribution: its name for pip.
        use: its purpose; "required" if nothing works without it.
        install: how to get it.
    """

    module: str
    distribution: str
    use: str
    install: str


LIBRARIES = {
    "torch": Library("torch", "torch", "required", "pip install torch"),
    "soundfile": Library("soundfile", "soundfile", "required", "pip install soundfile"),
    "sentencepiece": Library("sentencepiece", "sentencepiece", "required", "pip install sentencepiece"),
    "yaml": Library("yaml", "pyyaml", "required", "pip install pyyaml"),
    "tqdm": Library("tqdm", "tqdm", "required", "pip install tqdm"),
    "kaldifst": Library("kaldifst", "kaldifst", "decoding", "pip install kaldifst"),
    "kaldi_decoder": Library("kaldi_decoder", "kaldi-decoder", "decoding", "pip install kaldi-decoder"),
    "k2": Library("k2", "k2", "decoding", ""),  # see _k2_wheel()
    "transformers": Library("transformers", "transformers", "rescoring", "pip install transformers"),
    "nemo": Library("nemo.collections.asr", "nemo_toolkit", "host", "pip install 'sigmel[nemo]'"),
    "lightning": Library("lightning.pytorch", "lightning", "host", "pip install 'sigmel[nemo]'"),
    "espnet": Library("espnet2", "espnet", "host", "pip install espnet, in an environment without NeMo"),
    "soxr": Library("soxr", "soxr", "resampling", "pip install 'sigmel[recipes]'"),
    "scipy": Library("scipy", "scipy", "augmentation", "pip install 'sigmel[recipes]'"),
    "pooch": Library("pooch", "pooch", "downloads", "pip install 'sigmel[recipes]'"),
    "espeakng_loader": Library("espeakng_loader", "espeakng-loader", "voices", "pip install 'sigmel[espeak]'"),
    "kaldialign": Library("kaldialign", "kaldialign", "scoring", "pip install 'sigmel[score]'"),
    "matplotlib": Library("matplotlib.figure", "matplotlib", "plots", "pip install 'sigmel[plot]'"),
    "distributed": Library("distributed", "distributed", "clusters", "pip install 'sigmel[dask]'"),
    "triton": Library("triton", "triton", "GPU kernels", "comes with the CUDA builds of torch for Linux"),
    "jiwer": Library("jiwer", "jiwer", "tests", "pip install 'sigmel[test]'"),
    "onnxruntime": Library("onnxruntime", "onnxruntime", "tests", "pip install 'sigmel[test]'"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sigmel doctor`."""
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        metavar="NAME",
        help=f"fail unless this works; may be repeated: gpu, {', '.join(LIBRARIES)}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print what is found; 1 if something installed is broken or something required is missing, 0 otherwise."""
    names = ["gpu", *LIBRARIES]
    for name in args.require:
        if name not in names:
            raise SigmelError(f"--require {name}: there is no such name; {registry.nearest(name, names)}")
    required = {*args.require, *(name for name, library in LIBRARIES.items() if library.use == "required")}
    print("importing what is installed; NeMo alone takes about 20 s ...", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        torch_found = pool.submit(_torch_facts)
        plugins = pool.submit(_plugin_problems)
        compiled = pool.submit(_compile_problems)
        findings = list(pool.map(_examine, LIBRARIES))
    torch, gpus = torch_found.result()
    problems = [
        f"{found['name']} is {found['state']}: {found['note']}"
        for found in findings
        if found["state"] == "broken" or (found["state"] == "not installed" and found["name"] in required)
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
        "libraries": findings,
        "kernels": _kernels(["cpu", "cuda"] if gpus else ["cpu"], compiled.result()),
        "problems": problems,
    }
    print(json.dumps(report, indent=2) if args.json else _text(report))
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


def _examine(name: str) -> dict[str, str]:
    """The state of a library, which is imported if it is installed; the note says what is wrong, or how to get it."""
    library = LIBRARIES[name]
    found = {"name": name, "use": library.use}
    try:
        found["version"] = version(library.distribution)
    except PackageNotFoundError:
        return found | {"version": "-", "state": "not installed", "note": library.install or _k2_wheel()}
    _, problem = _python(f"import {library.module}")
    if problem and name == "k2":
        problem += f"; {_k2_wheel()}"
    return found | {"state": "broken" if problem else "ok", "note": problem}


def _k2_wheel() -> str:
    """Where the wheels of k2 are; only a module that imports torch knows."""
    found, problem = _ask("from sigmel.decoding.search.k2_backend import k2_wheel", "k2_wheel()")
    return found or problem


def _torch_facts() -> tuple[str, list[str]]:
    """The version and build of torch, and the GPUs that torch finds."""
    gpus = "[cuda.get_device_name(i) for i in range(cuda.device_count())]"
    found, _ = _ask("import torch; cuda = torch.cuda", f"[torch.__version__, torch.version.cuda, {gpus}]")
    if not found:
        return "broken", []
    version, cuda, names = found
    return f"{version} ({f'CUDA {cuda}' if cuda else 'CPU build'})", names


def _plugin_problems() -> list[str]:
    """Why registered classes cannot be loaded."""
    code = (
        "from sigmel import registry\n"
        "problems = set()\n"
        "for entry in registry.entries():\n"
        "    try: registry.get(entry.kind, entry.name)\n"
        "    except registry.RegistryError as error: problems.add(str(error))"
    )
    found, problem = _ask(code, "sorted(problems)")
    return [f"loading the registered classes: {problem}"] if problem else found


def _compile_problems() -> dict[str, str]:
    """Why the C++ of ops cannot be compiled here; compiles the C++ that is not compiled yet."""
    code = (
        "import sigmel.ops\n"
        "from pathlib import Path\n"
        "from sigmel.ops.native import native\n"
        "sources = Path(sigmel.ops.__file__).parent.glob('*/cpu.cpp')\n"
        "problems = {source.parent.name: native(source).problem for source in sources}"
    )
    found, _ = _ask(code, "{op: problem for op, problem in problems.items() if problem}")
    return found or {}


def _ask(code: str, expression: str) -> tuple[Any, str]:
    """Run code in a Python of its own: the value of an expression after it, and why that failed ("" if it did not)."""
    output, problem = _python(f"{code}\nimport json; print(json.dumps({expression}))")
    return (None, problem) if problem else (json.loads(output.splitlines()[-1]), "")


def _python(code: str) -> tuple[str, str]:
    """Run code in a Python of its own: its output, and why it failed ("" if it did not)."""
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


def _kernels(devices: Iterable[str], broken: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The implementation of each op on each device: the device's own, if the op's folder has one, or the reference."""
    spec = importlib.util.find_spec("sigmel.ops")  # importing sigmel.ops would import torch, which may be broken
    kernels = {}
    for folder in spec.submodule_search_locations or [] if spec else []:
        for op in pkgutil.iter_modules([folder]):
            if op.ispkg:
                files = {module.name for module in pkgutil.iter_modules([os.path.join(folder, op.name)])}
                kernels[op.name] = {device: device if device in files else "reference" for device in devices}
                if op.name in broken:
                    kernels[op.name]["cpu"] = f"reference: {broken[op.name]}"
    return kernels
