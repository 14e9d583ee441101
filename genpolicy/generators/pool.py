"""Jobs in worker processes, with results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, n_workers: int
) -> Iterator[Result]:
    """Yield ``function(job)`` for every job, which may be without end.

    At most two jobs per worker are under way; those that wait when the caller stops are cancelled.
    Workers end with the calling process, also when it is killed.

    Args:
        function: at the top level of a module, and the same in every process.
        jobs: its arguments, which can be pickled.
        n_workers: processes; 1 works in this one. A script that uses more needs multiprocessing's
            guard, ``if __name__ == "__main__":``.
    """
    if n_workers == 1:
        yield from map(function, jobs)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    with ProcessPoolExecutor(n_workers, context, initializer=_end_with_parent) as pool:
        running: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                running.append(pool.submit(function, job))
                if len(running) >= 2 * n_workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone; a pool alone would go on."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
