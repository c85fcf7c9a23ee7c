"""Data stages of recipes, and made-up corpora that they can be given."""

import functools
import importlib.util
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sigmel.files.audio import write_wav


@pytest.fixture(scope="session")
def load_stage():
    """Function that imports the data stage of a recipe, as "fsdd/asr1"."""

    def load(recipe: str) -> ModuleType:
        script = Path(__file__).parents[2] / "egs" / recipe / "local" / "data.py"
        spec = importlib.util.spec_from_file_location(f"{recipe.replace('/', '_')}_data", script)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def make_digits(tmp_path_factory):
    """Function that makes recordings named as those of the Free Spoken Digit Dataset, by {speaker: pitch}.

    Digit d of a speaker is a tone of its own in a little noise, index i (0 to 11) a little louder.
    """

    def make(speakers: dict[str, float]) -> Path:
        folder = tmp_path_factory.mktemp("fsdd") / "recordings"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for speaker, height in speakers.items():
            for digit in range(10):
                for index in range(12):
                    time = np.arange(int(rng.integers(1200, 3600))) / 8000
                    tone = (0.2 + 0.01 * index) * np.sin(2 * np.pi * height * (200 + 100 * digit) * time)
                    noise = 1e-3 * rng.standard_normal(len(time) + 1600)
                    noise[800:-800] += tone
                    write_wav(folder / f"{digit}_{speaker}_{index}.wav", noise, 8000)
        return folder.parent

    return make


@pytest.fixture(scope="session")
def ljspeech(tmp_path_factory):
    """Twelve tones as LJSpeech has its clips: a list, and recordings at 22.05 kHz."""
    folder = tmp_path_factory.mktemp("ljspeech")
    (folder / "wavs").mkdir()
    lines, rng = [], np.random.default_rng(0)
    for number in range(1, 13):
        time = np.arange(int(rng.integers(11025, 22050))) / 22050
        write_wav(folder / f"wavs/LJ001-{number:04}.wav", 0.3 * np.sin(2 * np.pi * 100 * number * time), 22050)
        lines.append(f"LJ001-{number:04}|It’s a tone, for Zoë|It’s a tone, for Zoë\n")
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def address(tmp_path):
    """Address at which the files of `tmp_path` can be downloaded."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
