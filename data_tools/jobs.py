"""Long work with a progress bar, in one process or several; silent when nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Iterate with a bar on stderr when it is a terminal."""
    yield from tqdm(items, total=total, desc=description, disable=not sys.stderr.isatty(), leave=False)


def run_jobs(
    function: Callable[..., None], jobs: Sequence[tuple[Any, ...]], num_workers: int, name: str
) -> None:
    """Call function(*job) for each job, with a progress bar; an error in one stops the work and is raised here."""
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
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
