"""Makes a virtual environment of the Makefile: python .ci/venv.py VENV TORCH EXTRAS [HOST]

TORCH is a requirement such as torch==2.13.0, EXTRAS a list such as nemo,espeak. HOST names a folder of patches/ that
says how a toolkit is installed whose own requirements do not fit that torch. Uses the standard library only, needs no
root, and honours the user's own pip configuration. Running it again mends what an interrupted run left.

The one thing pip cannot be told in a requirement: PyPI's torch for Linux brings gigabytes of CUDA, and its CPU build
is on another index. So on Linux without an NVIDIA GPU that index is offered to pip beside the user's own; pip prefers
its +cpu version. Where the index cannot be reached, pip would wait for minutes, so the index is tried first.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
VERSION = platform.python_version()


def main(venv, torch, extras, host=None):
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"error: {sys.executable} is Python {VERSION}; sigmel needs 3.10 to 3.13 (make PYTHON=python3.12 venv)"
        )
    python = make_venv(venv)
    gpu = has_gpu()
    print(f"installing {torch} (some minutes)", flush=True)
    builds = [] if gpu else cpu_index()
    install(python, torch, "numpy", *builds)
    version, cuda = output(python, "-c", "import torch; print(torch.__version__, torch.version.cuda)").split()
    if cuda != "None" and not gpu:
        print(
            f"warning: torch {version} is built for CUDA and no NVIDIA GPU was found; it works, but takes gigabytes\n"
            f"more than the CPU build: {python} -m pip install {torch} --index-url {TORCH_CPU_INDEX}"
        )
    # Nothing installed from here on may replace that torch.
    constraints = os.path.join(venv, "constraints.txt")
    with open(constraints, "w") as file:
        file.write(f"torch=={version}\n")
    if host:
        print(f"installing {host} as patches/{host} says (some minutes)", flush=True)
        requirements, wheels = (f"patches/{host}/{name}.txt" for name in ("requirements", "without-deps"))
        install(python, "--constraint", constraints, "--requirement", requirements)
        install(python, "--no-deps", "--ignore-requires-python", "--requirement", wheels, *builds)
        subprocess.run([python, "patches/torchaudio-cpu/apply.py"], check=True)
    print(f"installing sigmel[{extras}] beside torch {version} (some minutes)", flush=True)
    install(python, "--constraint", constraints, "--editable", f".[{extras}]")


def make_venv(venv):
    """Leaves a virtual environment with pip in it, of this Python; returns the path of its Python."""
    python = os.path.join(venv, "bin", "python")
    if os.path.exists(python):
        found = output(python, "-c", "import platform; print(platform.python_version())").strip()
        if found.split(".")[:2] != VERSION.split(".")[:2]:
            sys.exit(
                f"error: {venv} is of Python {found}, not {VERSION} ({sys.executable}); "
                "remove it, or name another (make VENV=.venv-other venv)"
            )
        if subprocess.run([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL).returncode == 0:
            return python
    print(f"making {venv} with Python {VERSION}", flush=True)
    # Debian and Ubuntu keep ensurepip in a package that only root can install. The wheel of pip can run from itself.
    own_pip = importlib.util.find_spec("ensurepip") is not None
    subprocess.run([sys.executable, "-m", "venv", *([] if own_pip else ["--without-pip"]), venv], check=True)
    if not own_pip:
        with tempfile.TemporaryDirectory() as folder:
            pip = wheel("pip", r"[\d.]+-py3-none-any", folder)
            subprocess.run([python, os.path.join(pip, "pip"), "install", "--quiet", pip], check=True)
    install(python, "--upgrade", "pip")
    return python


def install(python, *arguments):
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments]
    subprocess.run(command, check=True)


def wheel(project, pattern, folder):
    """Downloads the newest wheel of a project, whose version and tags match a pattern, and returns its path.

    The package index lists a wheel with a checksum, as in `href="https://.../pip-26.0-py3-none-any.whl#sha256=..."`.
    """
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + f"/{project}/"
    link = rf'href="([^"#]*/({project}-{pattern}\.whl))(?:#(\w+)=(\w+))?"'
    found = re.findall(link, fetch(index, 60).decode())
    if not found:
        sys.exit(f"error: {index} lists no wheel {project}-{pattern}.whl")
    url, name, algorithm, expected = max(found, key=lambda link: [int(n) for n in link[1].split("-")[1].split(".")])
    content = fetch(urllib.parse.urljoin(index, url), 600)
    if algorithm and hashlib.new(algorithm, content).hexdigest() != expected:
        sys.exit(f"error: {name} is not the file that {index} lists: its {algorithm} is another")
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(content)
    return path


def has_gpu():
    """Whether the driver of an NVIDIA GPU answers and names one."""
    if shutil.which("nvidia-smi") is None:
        return False
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return answer.returncode == 0 and b"GPU" in answer.stdout


def cpu_index():
    """The options that offer pip the CPU builds of torch, where PyPI's are not CPU builds anyway."""
    if platform.system() != "Linux":
        return []
    try:
        fetch(TORCH_CPU_INDEX + "/torch/", 5)
    except OSError as error:
        print(
            f"note: {TORCH_CPU_INDEX} cannot be reached ({error}); taking torch from the configured package index",
            flush=True,
        )
        return []
    return ["--extra-index-url", TORCH_CPU_INDEX]


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def fetch(url, timeout):
    """The bytes at an address; OSError when it cannot be read. Certificates come from where pip has them."""
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with urllib.request.urlopen(url, timeout=timeout, context=context) as answer:
        return answer.read()


def run(work):
    """Does the work with the arguments of the command line; an error is one line."""
    try:
        work(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)} failed; the same `make` tries again")
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run(main)
