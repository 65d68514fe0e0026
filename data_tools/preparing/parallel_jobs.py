"""The same work on many things, in several processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from scal3r_data_tools.progress import progress


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
