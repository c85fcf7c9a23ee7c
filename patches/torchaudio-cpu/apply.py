"""Lets torchaudio be imported beside a torch without CUDA: python patches/torchaudio-cpu/apply.py

PyPI's torchaudio links CUDA with its one native file and raises OSError without it. That file holds forced alignment
and the RNN-T loss; filter banks, spectrograms and resampling are plain torch. Where importing torchaudio fails and
torch has no CUDA, the file is set aside. Applying this again, or where it is not needed, changes nothing.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch


def main() -> int:
    spec = find_spec("torchaudio")
    if spec is None or spec.origin is None:
        print("torchaudio is not installed: nothing to patch")
        return 0
    if imports():
        print("torchaudio works: nothing to patch")
        return 0
    natives = sorted((Path(spec.origin).parent / "lib").glob("_torchaudio*.so"))
    if torch.version.cuda is None and natives:
        for native in natives:
            native.rename(native.with_name(native.name + ".needs-cuda"))
            print(f"set aside {native}, which needs CUDA")
        if imports():
            return 0
    print("error: torchaudio cannot be imported; install one that fits this torch", file=sys.stderr)
    return 2


def imports() -> bool:
    """Whether a fresh process can import torchaudio."""
    return subprocess.run([sys.executable, "-c", "import torchaudio"], capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
