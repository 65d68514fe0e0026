"""Long work with its progress shown, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from scal3r_train.config import UserError
from scal3r_train.shown_progress import ShownWork

T = TypeVar("T")


def progress(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Iterate with a bar on stderr when it is a terminal, else with a line now and then."""
    with ShownWork(description, total) as work:
        for number, item in enumerate(items, 1):
            yield item
            work.reach(number)


def run_jobs(
    function: Callable[..., None], jobs: Sequence[tuple[Any, ...]], num_workers: int, name: str
) -> None:
    """Call function(*job) for each job, showing progress; an error in one stops the work and is raised here.

    Raises UserError when one of several processes is killed.
    """
    workers = min(num_workers, len(jobs))
    if workers <= 1:
        for job in progress(jobs, len(jobs), name):
            function(*job)
        return
    # spawn: a fork would inherit threads in an undefined state
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(function, *job) for job in jobs]
        try:
            for future in progress(as_completed(running), len(running), name):
                future.result()
        except BrokenProcessPool:
            raise UserError(
                "a working process was killed, often for lack of memory (`dmesg` tells); lower num_workers"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
