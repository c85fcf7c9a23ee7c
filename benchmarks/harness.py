"""What the benchmarks share: their options, ours and a peer timed in turn, memory, a table of rows, JSON."""

from __future__ import annotations

import argparse
import json
import re
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

TURN = 50.0  # milliseconds
Work = Callable[[], object]


@dataclass
class Row:
    """One comparison.

    Attributes:
        case: what was done.
        metric: what was measured, with its unit.
        ours, theirs: the figures, medians where they are times.
        peer: who `theirs` is of.
        better: above 1 where ours wins.
    """

    case: str
    metric: str
    ours: float
    peer: str
    theirs: float
    better: float


def row(
    case: str, metric: str, ours: float, peer: str, theirs: float, digits: int | None = 3, more: bool = False
) -> Row:
    """A comparison of rounded figures; less is better, or `more`."""
    least = 10.0 ** -(digits or 0)  # no error at all is taken for the smallest figure
    better = (max(theirs, least) / max(ours, least)) ** (-1 if more else 1)
    return Row(case, metric, round(ours, digits), peer, round(theirs, digits), round(better, 3))


def compare(case: str, ours: Work, peer: str, theirs: Work, repeats: int) -> Row:
    """Time both in turn, so that what else the machine does meets both alike; milliseconds a call."""
    works = ours, theirs
    calls = [_calls(work) for work in works]
    turns = [
        [_turn(*pair) for pair in zip(works, calls, strict=True)] for _ in tqdm(range(repeats), case, leave=False)
    ]
    mine, other = (statistics.median(times) for times in zip(*turns, strict=True))
    return row(case, "ms", mine, peer, other)


def milliseconds(work: Work, repeats: int) -> float:
    """The median time of a call, where there is no peer."""
    calls = _calls(work)
    return statistics.median(_turn(work, calls) for _ in range(repeats))


def _calls(work: Work) -> int:
    """How many calls take some `TURN` milliseconds."""
    return max(1, round(TURN / min(_milliseconds(work) for _ in range(3))))


def _turn(work: Work, calls: int) -> float:
    """Milliseconds a call, after one that is not timed.

    The first call after the other's finds memory and threads cold, which says more of the other than of itself.
    """
    work()
    return _milliseconds(lambda: [work() for _ in range(calls)]) / calls


def _milliseconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def compare_memory(case: str, setup: str, ours: str, peer: str, theirs: str) -> Row:
    """The most memory that two pieces of Python need at a time, each in a fresh process after `setup`; in MB."""
    return row(case, "MB", _peak(setup, ours), peer, _peak(setup, theirs), digits=1)


def _peak(setup: str, form: str) -> float:
    """MB that `form` adds to the most memory that a process has had after `setup` (Linux)."""
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


def options(
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
    *,
    devices: Sequence[str] = (),
    repeats: int = 21,
) -> argparse.Namespace:
    """The command line of a benchmark: its own arguments, `json`, `quick`, `repeats` and, of several, the `device`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--quick", action="store_true", help="fewer repeats: says that it runs, not how fast")
    if devices:
        parser.add_argument("--device", choices=devices, default=devices[0], help="default: %(default)s")
    args = parser.parse_args()
    if devices and args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device here")
    args.repeats = max(1, repeats // 7) if args.quick else repeats
    return args


def report(rows: Sequence[Row | Mapping[str, str]], path: Path | None, **facts: object) -> None:
    """Print the rows, and write them as JSON with where they were measured and other facts."""
    content = [asdict(found) if isinstance(found, Row) else dict(found) for found in rows]
    print(table(list(content[0]), [[str(value) for value in found.values()] for found in content]))
    if path is not None:
        gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
        machine = environment() | {"threads": str(torch.get_num_threads())} | gpu
        text = json.dumps({"machine": machine, **facts, "rows": content}, indent=1)
        text = re.sub(r"\[[^][{}\"]+]", lambda numbers: " ".join(numbers[0].split()), text)  # a list a line
        with atomic_path(path) as temporary:
            temporary.write_text(text + "\n")
