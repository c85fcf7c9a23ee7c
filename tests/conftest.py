"""What every test shares: one thread a worker, fixed seeds, and where tests run."""

import importlib.util
import itertools
import math
import os
import shutil
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

# Before torch is imported: workers share the cores, and threads on top of them only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before Triton is imported: without a device, kernels run in its interpreter.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import random

import numpy as np
import pytest

TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the tests of a host on one worker, as importing a host takes long, and skips gpu tests without a GPU."""
    for item in items:
        folders = item.path.relative_to(TESTS).parts
        if folders[0] == "hosts" and len(folders) > 2:
            item.add_marker(pytest.mark.xdist_group(folders[1]))
        if "gpu" in item.keywords:
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def processes(tmp_path_factory, monkeypatch):
    """Function that calls `work(rank, world, store, *arguments)` in so many processes.

    The store is a file by which they can find each other; what one raises, is raised here.
    """
    from torch.multiprocessing import get_context, start_processes

    monkeypatch.syspath_prepend(TESTS.parent)  # a process imports the module of `work` by its name

    def run(work, world, *arguments):
        # One process imports what takes long, and the others are its forks.
        get_context("forkserver").set_forkserver_preload([work.__module__, "torch._dynamo"])
        store = tmp_path_factory.mktemp("store") / "store"
        start_processes(work, (world, str(store), *arguments), world, start_method="forkserver")

    return run


@pytest.fixture(scope="session")
def files() -> ModuleType:
    """The files of users in `hosts/golden`, as its `make.py` describes them; `FOLDER` is where they lie."""
    spec = importlib.util.spec_from_file_location("golden_files", TESTS / "hosts/golden/make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def an4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small database laid out as AN4: SPHERE files of tones, two lists a set, those of train with sentence marks."""
    import soundfile

    folder = tmp_path_factory.mktemp("an4")
    (folder / "etc").mkdir()
    spoken = ["YES", "ENTER FIFTY ONE", "P I T T S B U R G H", "RUBOUT N Z X L THIRTY ONE", "MARCH THIRD"]
    speakers = {"train": [f"f{n:03}" for n in range(11)], "test": ["mabc", "mdef2"]}
    for name, top in (("train", "an4_clstk"), ("test", "an4test_clstk")):
        files, lines = [], []
        for number, speaker in enumerate(speakers[name]):
            for take, words in enumerate(spoken):
                utterance = f"an{5 * number + take}-{speaker}-b"
                time = np.arange(16000 + 1600 * take) / 16000
                path = folder / "wav" / top / speaker / f"{utterance}.sph"
                path.parent.mkdir(parents=True, exist_ok=True)
                tone = 0.3 * np.sin(2 * np.pi * (200 + 20 * number + 100 * take) * time)
                soundfile.write(path, tone, 16000, format="NIST", subtype="PCM_16")
                files.append(f"{top}/{speaker}/{utterance}\n")
                lines.append(f"<s> {words} </s> ({utterance})\n" if name == "train" else f"{words} ({utterance})\n")
        (folder / f"etc/an4_{name}.fileids").write_text("".join(files))
        (folder / f"etc/an4_{name}.transcription").write_text("".join(lines))
    return folder


# Definitions of graphs to check against: every path of a small graph, every sequence of frames.


def _paths(graph, labels):
    """What each path writes that reads ``labels`` (epsilons aside), with its score; few epsilons are followed."""
    arcs = defaultdict(list)
    for arc in zip(graph.src, graph.dst, graph.label, graph.aux, graph.score, strict=True):
        arcs[int(arc[0])].append(arc[1:])
    found = []

    def walk(state, at, written, score, silent):
        if at == len(labels) and math.isfinite(graph.final[state]):
            found.append((written, score + float(graph.final[state])))
        for dst, label, aux, weight in arcs[state]:
            said = (*written, int(aux)) if aux else written
            if label == 0 and silent < 4:
                walk(int(dst), at, said, score + float(weight), silent + 1)
            elif at < len(labels) and label == labels[at]:
                walk(int(dst), at + 1, said, score + float(weight), 0)

    walk(0, 0, (), 0.0, 0)
    return found


def _best_paths(graph, labels):
    """The best score of everything that can be written when ``labels`` are read."""
    best = {}
    for written, score in _paths(graph, labels):
        best[written] = max(score, best.get(written, -math.inf))
    return best


def _collapse(frames, blank, topology):
    """The sets of token sequences that frames may spell."""
    if topology == "minimal":
        return {tuple(token for token in frames if token != blank)}
    found = set()
    runs = [(token, len(list(group))) for token, group in itertools.groupby(frames)]
    runs = [(token, count) for token, count in runs if token != blank]
    # With the compact topology a run may be as many equal tokens as it has frames.
    choices = [range(1, count + 1) if topology == "compact" else (1,) for _, count in runs]
    for counts in itertools.product(*choices):
        found.add(tuple(token for (token, _), n in zip(runs, counts, strict=True) for _ in range(n)))
    return found


@pytest.fixture(scope="session")
def brute_force():
    """`paths`, `best_paths` and `collapse`."""
    return SimpleNamespace(paths=_paths, best_paths=_best_paths, collapse=_collapse)
