"""Long work with a progress bar, in one process or several; silent when nobody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def progress(items: Iterable[T], total: int | None, description: str) -> Iterator[T]:
    """Iterate with a bar on stderr when it is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)


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
