"""Work shared by several processes, in order, with a progress bar."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from sigmel.errors import SigmelError, optional_library

Item = TypeVar("Item")
Result = TypeVar("Result")

_work: Any = None  # in a worker: the function and its context


def parallel_map(
    function: Callable[[Any, Item], Result],
    context: Any,
    items: Sequence[Item],
    workers: int | None = None,
    description: str = "",
    dask: str | None = None,
) -> Iterator[Result]:
    """Yield `function(context, item)` for every item, in order.

    Args:
        function: defined at the top level of a module; what it returns must not depend on the order of the work.
        context: handed once to each process.
        items: what to work on.
        workers: number of processes. Default: as many as this process may use CPUs; 1 works in this process.
        description: of the progress bar.
        dask: address of a Dask cluster that does the work instead; its machines need sigmel and the same files.

    Raises:
        SigmelError: there is no cluster at that address.
        Whatever `function` raises first; work not yet begun is then dropped. Workers also end when this process
        dies in any way, so that nobody goes on writing files.
    """
    from tqdm import tqdm

    if dask:
        yield from tqdm(_on_cluster(dask, function, context, items), description, len(items), mininterval=1.0)
        return
    workers = min(workers or usable_cpus(), max(len(items), 1))
    if workers == 1:
        yield from tqdm((function(context, item) for item in items), description, len(items), mininterval=1.0)
        return
    executor = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(function, context))
    try:
        # The processes start here, before the progress bar starts a thread, as threads and fork() do not go together.
        results = executor.map(_run, items, chunksize=max(1, min(32, len(items) // (4 * workers))))
        yield from tqdm(results, description, len(items), mininterval=1.0)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _on_cluster(
    address: str, function: Callable[[Any, Item], Result], context: Any, items: Sequence[Item]
) -> Iterator[Result]:
    dask = optional_library("distributed", "work on a Dask cluster needs", "pip install distributed")
    try:
        client = dask.Client(address, timeout="5s")
    except (OSError, ValueError) as error:
        raise SigmelError(f"no Dask cluster answers at {address}: {error}") from error
    with client:
        shared = client.scatter([context], hash=False)[0]  # sent once to a machine, not with every item
        futures = client.map(function, [shared] * len(items), items, pure=False)
        try:
            for future in futures:
                yield future.result()
        finally:
            client.cancel(futures)


def usable_cpus() -> int:
    """The number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker(function: Callable[[Any, Any], Any], context: Any) -> None:
    global _work
    _work = function, context
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the workers
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run(item: Any) -> Any:
    function, context = _work
    return function(context, item)
