"""Makes the virtual environment in which tests run real k2: python .ci/k2_venv.py VENV

k2 has wheels for few versions of torch and Python. The newest that the package index has for Linux without a GPU is
1.23.4 for torch 1.13.1 and Python 3.10. Its name says py3.10 and none, which pip does not understand.
"""

import os
import re
import subprocess
import sys
import tempfile
from venv import install, make_venv, run, wheel  # the file beside this one, not the library

K2, TORCH = "1.23.4", "1.13.1"
BESIDE = ["numpy<2", "kaldifst>=1.8.3", "kaldi-decoder>=0.3.2", "pyyaml", "sentencepiece", "soundfile", "tqdm"]
BESIDE += ["hypothesis", "pytest", "kaldialign"]  # for tests and benchmarks/fsa.py


def main(venv):
    if sys.version_info[:2] != (3, 10):
        sys.exit(f"error: k2 {K2} needs Python 3.10 (make K2_PYTHON=python3.10 test-k2), this is {sys.version}")
    python = make_venv(venv)
    print(f"installing torch {TORCH} and k2 {K2} (some minutes)", flush=True)
    install(python, f"torch=={TORCH}", *BESIDE)
    with tempfile.TemporaryDirectory() as folder:
        found = wheel("k2", re.escape(K2) + r"-py3\.10-none-any", folder)
        named = os.path.join(folder, f"k2-{K2}-cp310-cp310-linux_x86_64.whl")
        os.rename(found, named)
        install(python, "--no-deps", "--force-reinstall", named)
    install(python, "--no-deps", "--editable", ".")  # sigmel itself asks for a newer torch
    subprocess.run([python, "-c", "import k2"], check=True)


if __name__ == "__main__":
    run(main)
