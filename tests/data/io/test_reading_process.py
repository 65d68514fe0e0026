"""Reading processes obey their rank only, and their death is told in one line."""

import multiprocessing
import os
import signal
import subprocess

import pytest
from torch.utils.data import DataLoader

from scal3r_train.config import UserError
from scal3r_train.data.io.reading_process import begin_reading, deaths_named


def reading(num_items: int) -> DataLoader:
    return DataLoader(
        range(num_items), batch_size=None, num_workers=1, prefetch_factor=2, worker_init_fn=begin_reading
    )


def test_a_sigterm_for_the_whole_rank_leaves_the_readers_alone() -> None:
    batches = iter(reading(50))
    assert next(batches) == 0  # the process is up
    (reader,) = multiprocessing.active_children()
    subprocess.run(["kill", "-TERM", str(reader.pid)], check=True)
    assert list(batches) == list(range(1, 50))


def test_their_rank_can_end_them() -> None:
    batches = iter(reading(50))
    next(batches)
    (reader,) = multiprocessing.active_children()
    reader.terminate()
    reader.join(60)
    assert reader.exitcode == 0


def test_a_killed_reader_is_named() -> None:
    def lose_it() -> None:
        with deaths_named():
            batches = iter(reading(1000))
            next(batches)
            (reader,) = multiprocessing.active_children()
            os.kill(reader.pid, signal.SIGKILL)
            list(batches)

    with pytest.raises(
        UserError, match=r"^a reading process died: worker \(pid.*\d+\).*; if memory"
    ) as caught:
        lose_it()
    assert "\n" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^something else$"), deaths_named():
        raise RuntimeError("something else")
