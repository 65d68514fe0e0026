"""One owner at a time: who is refused and with which line, who counts as gone, and what a takeover can destroy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from scal3r_train.config import UserError
from scal3r_train.parallel import folder_lock
from scal3r_train.parallel.folder_lock import Owner, lock_beside, lock_inside, owned, refuse_owned

HOLD = """
import sys
from pathlib import Path
from scal3r_train.parallel.folder_lock import lock_inside, owned
with owned(lock_inside(Path(sys.argv[1])), "folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/run until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def leave_claim(lock: Path, **changes: object) -> Path:
    """Put the claim of another owner in place; it differs from this process in `changes`."""
    lock.mkdir(parents=True)
    path = lock / "0123.json"
    path.write_text(json.dumps(asdict(replace(Owner.this_process(), **changes))))  # type: ignore[arg-type]
    return path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_it_is_held_in_the_body_and_leaves_nothing(tmp_path: Path) -> None:
    lock = lock_inside(tmp_path / "run")
    with owned(lock, "run"):
        claim = json.loads(next(lock.iterdir()).read_text())
        assert (claim["pid"], claim["host"]) == (os.getpid(), folder_lock.socket.gethostname())
        assert len(list(lock.iterdir())) == 1
        with owned(lock, "run"):  # the same thread
            pass
        assert len(list(lock.iterdir())) == 1
    with pytest.raises(ZeroDivisionError), owned(lock, "run"):
        1 / 0  # noqa: B018
    assert files(tmp_path) == ["run"]


def test_another_process_is_named_and_what_it_left_when_killed_is_taken_over(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    lock = lock_inside(tmp_path / "run")
    before = files(tmp_path)
    for attempt in (lambda: owned(lock, "run X").__enter__(), lambda: refuse_owned(lock, "run X")):
        with pytest.raises(UserError) as caught:
            attempt()
        line = str(caught.value)
        assert line.startswith(f"run X is being written by process {holder.pid} on ")
        assert f"since {folder_lock.datetime.now(folder_lock.timezone.utc):%Y-%m-}" in line
        assert "`-c " in line and "end it, or name another" in line and "delete" not in line
    assert files(tmp_path) == before
    holder.kill()
    os.waitid(
        os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT
    )  # it stays a zombie: dead, and its number still taken
    with owned(lock, "run X"):
        assert json.loads(next(lock.iterdir()).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_releases_it_and_ends_the_process_as_ever(
    holder: subprocess.Popen[str], tmp_path: Path, number: signal.Signals
) -> None:
    holder.send_signal(number)
    assert holder.wait() == -number
    assert files(tmp_path) == ["run"]


def test_another_thread_of_the_process_is_refused(tmp_path: Path) -> None:
    lock, lines = lock_inside(tmp_path), list[str]()

    def second() -> None:
        try:
            with owned(lock, "run"):
                lines.append("owned")
        except UserError as error:
            lines.append(str(error))

    with owned(lock, "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(lines) == 1 and f"process {os.getpid()}" in lines[0]


def test_a_forked_child_neither_owns_nor_releases(tmp_path: Path) -> None:
    lock = lock_inside(tmp_path)
    with owned(lock, "run"):
        child = os.fork()
        if child == 0:
            folder_lock.release_all()
            try:
                refuse_owned(lock, "run")
            except UserError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert len(list(lock.iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "is_gone"),
    [
        ({}, False),
        ({"started": 1}, True),  # the number is another process's now
        ({"pid": 1 << 30}, True),
        ({"boot": "earlier"}, True),
        ({"boot": "earlier", "machine": ""}, False),  # may be another machine of the same name
        ({"namespace": "pid:[1]", "pid": 1 << 30}, False),  # another container
        ({"host": "elsewhere", "pid": 1 << 30}, False),
        ({"host": "elsewhere", "job": "c 12", "start_of_job": 0}, True),
        ({"host": "elsewhere", "job": "c 12", "start_of_job": 1}, False),
        ({"host": "elsewhere", "job": "c 13", "start_of_job": 0}, False),
    ],
)
def test_who_is_gone(changes: dict[str, object], *, is_gone: bool) -> None:
    here = replace(
        Owner.this_process(), machine="m", boot="b", namespace="pid:[2]", job="c 12", start_of_job=1
    )
    other = replace(here, **changes)  # type: ignore[arg-type]
    assert other.is_gone(here) is is_gone


def test_an_owner_elsewhere_is_refused_with_the_file_to_delete(tmp_path: Path) -> None:
    lock = lock_beside(tmp_path / "scene")
    claim = leave_claim(lock, host="elsewhere", since="2026-01-02 03:04:05 UTC", command="scal3r train x")
    with pytest.raises(UserError) as caught, owned(lock, "scene"):
        pass
    line = str(caught.value)
    assert "on elsewhere, since 2026-01-02 03:04:05 UTC: `scal3r train x`" in line and "\n" not in line
    assert line.endswith(f"delete {claim}")
    assert files(tmp_path) == [".scene.lock", ".scene.lock/0123.json"]
    claim.unlink()
    with owned(lock, "scene"):
        pass


def test_a_damaged_claim_is_not_taken_for_nobody(tmp_path: Path) -> None:
    leave_claim(lock_inside(tmp_path)).write_text("")
    with (
        pytest.raises(UserError, match=r"0123.json cannot be read; delete it"),
        owned(lock_inside(tmp_path), "x"),
    ):
        pass


def test_of_many_who_find_a_dead_owner_one_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All read the dead owner's claim before any of them removes it."""
    lock, number = lock_inside(tmp_path), 8
    leave_claim(lock, pid=1 << 30)
    barrier, read = threading.Barrier(number), folder_lock._read_claim

    def read_together(claim: Path) -> Owner | None:
        owner = read(claim)
        if claim.name == "0123.json":
            barrier.wait()
        return owner

    monkeypatch.setattr(folder_lock, "_read_claim", read_together)
    outcomes: list[str] = []
    done = threading.Barrier(number)

    def start() -> None:
        try:
            with owned(lock, "run"):
                outcomes.append("owned")
                done.wait()
        except UserError as error:
            outcomes.append(str(error))
            done.wait()

    threads = [threading.Thread(target=start) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("owned") == 1 and len(outcomes) == number
    assert files(tmp_path) == []


def test_other_locks_can_be_ruled_out(tmp_path: Path) -> None:
    leave_claim(tmp_path / ".lock_share_0_of_2", host="elsewhere")
    with (
        pytest.raises(UserError, match="elsewhere"),
        owned(lock_inside(tmp_path), "run", lambda: tmp_path.glob(".lock_share_*")),
    ):
        pass
    assert not lock_inside(tmp_path).exists()


def test_waiting_for_another_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = lock_inside(tmp_path)
    claim = leave_claim(lock, host="elsewhere")

    def end_of_wait(_seconds: float) -> None:
        claim.unlink(missing_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_lock.time, "sleep", end_of_wait)
        with owned(lock, "data", waits=True):
            pass
    assert capsys.readouterr().err.count("waiting: data is being written by process") == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file cannot be made or written: "),
        owned(lock_inside(tmp_path / "file"), "x"),
    ):
        pass
