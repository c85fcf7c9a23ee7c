"""Makes the virtual environment in which tests run real k2: python .ci/k2_venv.py VENV

k2 has wheels for few versions of torch and Python. The newest that the package index has for Linux without a GPU is
1.23.4 for torch 1.13.1, so this must be Python 3.10; and it must be found here, as the names of those wheels are none
that pip understands.
"""

import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from venv import fetch, make_venv  # the file beside this one, not the library

K2, TORCH = "1.23.4", "1.13.1"
BESIDE = ["numpy<2", "kaldifst>=1.8.3", "kaldi-decoder>=0.3.2", "pyyaml", "sentencepiece", "soundfile", "tqdm"]
BESIDE += ["hypothesis", "pytest", "kaldialign"]  # for tests and benchmarks/fsa.py


def main(venv):
    if sys.version_info[:2] != (3, 10):
        sys.exit(f"error: k2 {K2} needs Python 3.10 (make K2_PYTHON=python3.10 test-k2), this is {sys.version}")
    python = os.path.join(venv, "bin", "python")
    make_venv(venv, python)

    def pip(*arguments):
        subprocess.run(
            [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments], check=True
        )

    print(f"installing torch {TORCH} and k2 {K2} (some minutes)", flush=True)
    pip(f"torch=={TORCH}", *BESIDE)
    with tempfile.TemporaryDirectory() as folder:
        pip("--no-deps", "--force-reinstall", wheel(folder))
    pip("--no-deps", "--editable", ".")  # sigmel itself asks for a newer torch
    subprocess.run([python, "-c", "import k2"], check=True)


def wheel(folder):
    """Fetches the wheel of k2 and gives it a name that pip understands."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/k2/"
    links = re.findall(rf'href="([^"]*/k2-{re.escape(K2)}-py3\.10-none-any\.whl)[#"]', fetch(index, 60).decode())
    if not links:
        sys.exit(f"error: {index} lists no wheel of k2 {K2} for Python 3.10")
    path = os.path.join(folder, f"k2-{K2}-cp310-cp310-linux_x86_64.whl")
    with open(path, "wb") as file:
        file.write(fetch(urllib.parse.urljoin(index, links[0]), 600))
    return path


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {' '.join(error.cmd)} failed; `make test-k2` tries again")
    except KeyboardInterrupt:
        sys.exit(130)
