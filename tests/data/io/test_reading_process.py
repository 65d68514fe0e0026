"""Reading processes obey their rank only, and their death is told in one line."""

import errno
import multiprocessing
import os
import signal
import subprocess
import threading

import pytest
from torch.utils.data import DataLoader

from scal3r_train.config import UserError
from scal3r_train.data.io.reading_process import (
    SHARED_MEMORY,
    begin_reading,
    deaths_named,
    note_small_shared_memory,
    shared_memory_named,
)


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


class Unsendable:
    """A batch for which torch finds no room when it is sent."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __reduce__(self) -> str:
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (f"unable to allocate {SHARED_MEMORY}: No space left on device", "if memory|/dev/shm"),
        ("no pickle of this", "if memory"),
    ],
)
def test_a_batch_that_cannot_be_sent_is_not_waited_for(message: str, line: str) -> None:
    """Python only prints a traceback, and the training would wait for ever."""
    loader = DataLoader(
        [Unsendable(message)], batch_size=None, num_workers=1, worker_init_fn=begin_reading, collate_fn=None
    )
    with pytest.raises(UserError, match=f"^a reading process died: .*({line})"), deaths_named():
        list(loader)


def test_a_full_shm_when_readers_start() -> None:
    with (
        pytest.raises(UserError, match="^reading processes cannot be started: no room in /dev/shm"),
        shared_memory_named(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), shared_memory_named():
        raise PermissionError(errno.EACCES, "Permission denied")


class Stuck:
    """Data on a disk that does not answer."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> int:
        return threading.Event().wait(60) or 0


def test_a_reader_that_sends_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = DataLoader(Stuck(), batch_size=None, num_workers=1, worker_init_fn=begin_reading, timeout=0.2)
    with pytest.raises(UserError, match=r"within 0.2 s .* or /dev/shm \(.* MB free\)"), deaths_named():
        list(loader)


def test_a_word_when_shared_memory_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    note_small_shared_memory(1)
    assert capsys.readouterr().err == ""
    note_small_shared_memory(1 << 60)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: reading processes keep up to") and "--shm-size=16g" in line


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="^something else$"), deaths_named():
        raise RuntimeError("something else")
