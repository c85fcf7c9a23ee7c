"""What the benchmarks share: ours and a peer in turn, medians, a table, JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from sigmel.cli.table import table
from sigmel.files.atomic import atomic_path
from sigmel.scoring.results import environment

TURN = 50.0
Work = Callable[[], object]


@dataclass
class Row:
    """One comparison.

    Attributes:
        case: what was done.
        metric: what was measured, with its unit.
        ours, theirs: medians.
        peer: whose theirs is.
        better: above 1 where ours wins.
    """

    case: str
    metric: str
    ours: float
    peer: str
    theirs: float
    better: float


def compare(case: str, ours: Work, peer: str, theirs: Work, repeats: int) -> Row:
    """Time both in turn, so that what else the machine does meets both alike; milliseconds a call.

    A turn is as many calls as take some `TURN` milliseconds, after one that is not timed: the first call after the
    other's finds its memory and its threads cold, which says more of the other than of itself.
    """
    calls = [max(1, round(TURN / min(_milliseconds(work) for _ in range(3)))) for work in (ours, theirs)]
    times = [(_turn(ours, calls[0]), _turn(theirs, calls[1])) for _ in tqdm(range(repeats), desc=case, leave=False)]
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(case, "ms", round(mine, 3), peer, round(other, 3), round(other / mine, 3))


def _turn(work: Work, calls: int) -> float:
    work()
    return _milliseconds(lambda: [work() for _ in range(calls)]) / calls


def _milliseconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def peak(setup: str, form: str) -> float:
    """MB that `form` adds to the most memory a fresh process has had after `setup` (Linux)."""
    code = f"""
import torch
from pathlib import Path
torch.set_num_threads({torch.get_num_threads()})
{setup}
most = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = most()
{form}
print(most() - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def matmul_rate(size: int = 2048) -> float:
    """GFLOP/s of the best of ten square products in float32: what nothing here can surpass."""
    x = torch.randn(size, size)
    return 2 * size**3 / min(_milliseconds(lambda: x @ x) for _ in range(10)) / 1e6


def machine() -> dict[str, str]:
    """Where, and with what, it ran."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return environment() | {"threads": str(torch.get_num_threads())} | gpu


def options(
    description: str,
    devices: Sequence[str] = (),
    arguments: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
) -> argparse.Namespace:
    """The command line of a benchmark, which may run on one of several kinds of device.

    Args:
        description: of the benchmark.
        devices: to choose from.
        arguments: names of what has to be given.
        settings: name -> default of what may be given.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in arguments:
        parser.add_argument(name)
    for name, default in (settings or {}).items():
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: says that it runs, not how fast")
    if devices:
        parser.add_argument(
            "--device", choices=devices, default=devices[0], help="where to run (default: %(default)s)"
        )
    args = parser.parse_args()
    if devices and args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    return args


def report(rows: list[Row], path: Path | None) -> None:
    """Print the rows, and write them as JSON with where they were measured."""
    head = ["case", "metric", "ours", "peer", "theirs", "better"]
    print(table(head, [[str(value) for value in asdict(row).values()] for row in rows]))
    if path is not None:
        with atomic_path(path) as temporary:
            content = {"machine": machine(), "rows": [asdict(row) for row in rows]}
            temporary.write_text(json.dumps(content, indent=1) + "\n")
