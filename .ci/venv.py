"""Makes the virtual environment of `make venv`: python .ci/venv.py VENV TORCH EXTRAS

TORCH is a requirement such as torch==2.13.0, EXTRAS a list such as nemo,espeak. Uses the standard library only, needs
no root, and honours the user's own pip configuration. Running it again mends what an interrupted run left.

The one thing pip cannot be told in a requirement: PyPI's torch for Linux brings gigabytes of CUDA, and its CPU build
is on another index. So on Linux without an NVIDIA GPU that index is offered to pip beside the user's own; pip prefers
its +cpu version. Where the index cannot be reached, pip would wait for minutes, so it is tried first.
"""

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


def main(venv, torch, extras):
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            "error: %s is Python %s; sigmel needs 3.10 to 3.13 (make PYTHON=python3.12 venv)"
            % (sys.executable, platform.python_version())
        )
    python = os.path.join(venv, "bin", "python")
    make_venv(venv, python)

    def pip(*arguments):
        subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)

    gpu = has_gpu()
    flags = [] if gpu else cpu_index()
    pip("install", "--quiet", torch, *flags)
    version, cuda = subprocess.run(
        [python, "-c", "import torch; print(torch.__version__, torch.version.cuda)"],
        check=True,
        stdout=subprocess.PIPE,
        universal_newlines=True,
    ).stdout.split()
    print("torch %s, %s" % (version, "a CPU build" if cuda == "None" else "built for CUDA " + cuda))
    if cuda != "None" and not gpu:
        print(
            "warning: this torch is built for CUDA and no GPU was found; it works, but takes gigabytes more than\n"
            "the CPU build, which `%s -m pip install %s --index-url %s` installs" % (python, torch, TORCH_CPU_INDEX)
        )
    # Nothing installed from here on may replace that torch.
    constraints = os.path.join(venv, "constraints.txt")
    with open(constraints, "w") as file:
        file.write("torch==%s\n" % version)
    print("installing sigmel with %s" % extras, flush=True)
    pip("install", "--quiet", "--constraint", constraints, "--editable", ".[%s]" % extras)


def make_venv(venv, python):
    """Leaves a virtual environment with pip in it, of this Python."""
    if os.path.exists(python):
        asked = subprocess.run(
            [python, "-c", "import platform; print(platform.python_version())"],
            stdout=subprocess.PIPE,
            universal_newlines=True,
        ).stdout.strip()
        if asked != platform.python_version():
            sys.exit(
                "error: %s is of Python %s, not %s (%s); remove it, or name another (make VENV=.venv-other venv)"
                % (venv, asked or "that does not start", platform.python_version(), sys.executable)
            )
        if subprocess.run([python, "-m", "pip", "--version"], stdout=subprocess.DEVNULL).returncode == 0:
            return
    print("making %s with Python %s" % (venv, platform.python_version()), flush=True)
    try:
        import ensurepip  # noqa: F401
    except ImportError:  # Debian and Ubuntu keep it in a package that only root can install.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        bootstrap_pip(python)
    else:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)


def bootstrap_pip(python):
    """Installs pip with the wheel of pip, which can run from itself."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    links = re.findall(r'href="([^"]*/pip-([\d.]+)-py3-none-any\.whl)[#"]', fetch(index, 60).decode())
    if not links:
        sys.exit("error: this Python has no ensurepip and %s lists no wheel of pip" % index)
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
            "note: %s cannot be reached (%s); taking torch from the configured package index"
            % (TORCH_CPU_INDEX, error),
            flush=True,
        )
        return []
    return ["--extra-index-url", TORCH_CPU_INDEX]


def fetch(url, timeout):
    """The bytes at an address; OSError when it cannot be read. Certificates come from where pip has them."""
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    with urllib.request.urlopen(url, timeout=timeout, context=context) as answer:
        return answer.read()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit("error: %s failed; `make venv` tries again" % " ".join(error.cmd))
    except KeyboardInterrupt:
        sys.exit(130)
