"""Makes a virtual environment of the Makefile: python .ci/venv.py VENV TORCH EXTRAS [HOST]

TORCH is a requirement such as torch==2.13.0, EXTRAS a list such as nemo,espeak. HOST names a folder of patches/ that
says how a toolkit is installed whose own requirements do not fit that torch. Uses the standard library only, needs no
root, and honours the user's own pip configuration. Running it again mends what an interrupted run left.

The one thing pip cannot be told in a requirement: PyPI's torch for Linux brings gigabytes of CUDA, and its CPU build
is on another index. So on Linux without an NVIDIA GPU that index is offered to pip beside the user's own; pip prefers
its +cpu version. Where the index cannot be reached, pip would wait for minutes, so it is tried first.
"""

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
    python = os.path.join(venv, "bin", "python")
    make_venv(venv, python)

    def pip(*arguments):
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)

    gpu = has_gpu()
    print(f"installing {torch} (some minutes)", flush=True)
    builds = [] if gpu else cpu_index()
    pip("install", "--quiet", torch, "numpy", *builds)
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
        wanted = os.path.join("patches", host, "requirements.txt")
        pip("install", "--quiet", "--constraint", constraints, "--requirement", wanted)
        wheels = os.path.join("patches", host, "without-deps.txt")
        pip("install", "--quiet", "--no-deps", "--ignore-requires-python", "--requirement", wheels, *builds)
        subprocess.run([python, os.path.join("patches", "torchaudio-cpu", "apply.py")], check=True)
    print(f"installing sigmel[{extras}] beside torch {version} (some minutes)", flush=True)
    pip("install", "--quiet", "--constraint", constraints, "--editable", f".[{extras}]")


def make_venv(venv, python):
    """Leaves a virtual environment with pip in it, of this Python."""
    if os.path.exists(python):
        found = output(python, "-c", "import platform; print(platform.python_version())").strip()
        if found.split(".")[:2] != VERSION.split(".")[:2]:
            sys.exit(
                f"error: {venv} is of Python {found}, not {VERSION} ({sys.executable}); "
                "remove it, or name another (make VENV=.venv-other venv)"
            )
        if subprocess.run([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL).returncode == 0:
            return
    print(f"making {venv} with Python {VERSION}", flush=True)
    # Debian and Ubuntu keep ensurepip in a package that only root can install.
    own_pip = importlib.util.find_spec("ensurepip") is not None
    subprocess.run([sys.executable, "-m", "venv", *([] if own_pip else ["--without-pip"]), venv], check=True)
    if not own_pip:
        bootstrap_pip(python)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)


def bootstrap_pip(python):
    """Installs pip with the wheel of pip, which can run from itself."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    links = re.findall(r'href="([^"]*/pip-([\d.]+)-py3-none-any\.whl)[#"]', fetch(index, 60).decode())
    if not links:
        sys.exit(f"error: this Python has no ensurepip, and {index} lists no wheel of pip")
    link, _ = max(links, key=lambda link: [int(part) for part in link[1].split(".")])
    with tempfile.TemporaryDirectory() as folder:
        wheel = os.path.join(folder, link.rsplit("/", 1)[1])
        with open(wheel, "wb") as file:
            file.write(fetch(urllib.parse.urljoin(index, link), 60))
        subprocess.run([python, os.path.join(wheel, "pip"), "install", "--quiet", wheel], check=True)


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


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)} failed; `make venv` tries again")
    except KeyboardInterrupt:
        sys.exit(130)
