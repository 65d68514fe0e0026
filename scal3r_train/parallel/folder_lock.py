"""One owner for what a command writes: a second start is refused, in one line, while the first is alive.

The lock of an output is a folder with one file in it, the claim of its owner: who it is, since when, by which command.
A claim is written (O_EXCL) into a folder of its own, which then takes the lock's name by a rename. That works while the
lock is not there or empty, and for one of those who try at once, also on NFS and where flock is not supported. Names of
claims are never used again, so that those who find an owner gone remove its claim and nobody else's. There is no state
in between: a process that is killed anywhere in here leaves at most a claim of a process that is gone.

An owner is known to be gone on its own machine: it was started again since, or no process has the number and the start
time any more. Of one on another machine nothing is known, and the user is told which file to delete; except when it was
an earlier start of the same SLURM job, which has no two at a time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from scal3r_train.config import UserError
from scal3r_train.notes import tell
from scal3r_train.os_errors import ADVICE

LOCK_NAME = ".lock"
CLAIM_SUFFIX = ".json"
STAGED_PREFIX = ".claim_"
MAX_TRIES = 100
WAIT_S = 0.2
# What ends a process at once unless it says otherwise, and is sent by schedulers and people.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def lock_inside(folder: Path) -> Path:
    """Return the lock of a folder that is written in place."""
    return folder / LOCK_NAME


def lock_beside(output: Path) -> Path:
    """Return the lock of a file or folder that is replaced as a whole."""
    return output.parent / f".{output.name}{LOCK_NAME}"


@dataclass(frozen=True)
class Owner:
    """A process that owns an output.

    Attributes:
        host: its machine's name.
        machine, boot, namespace: what its process number means something in; "" where the system does not say.
        pid, started: its number, and its start in clock ticks after the boot; None where the system does not say.
        job, start_of_job: the SLURM job, "" without, and how often that was queued again.
        command, since: for people.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: int | None
    job: str
    start_of_job: int
    command: str
    since: str

    @staticmethod
    def this_process() -> Owner:
        """Return who this process is."""
        job = os.environ.get("SLURM_JOB_ID", "")
        return Owner(
            host=socket.gethostname(),
            machine=_digest(_read("/etc/machine-id")),
            boot=_digest(_read("/proc/sys/kernel/random/boot_id")),
            namespace=_namespace(),
            pid=os.getpid(),
            started=_start_of(os.getpid()),
            job=job and f"{os.environ.get('SLURM_CLUSTER_NAME', '')} {job}".strip(),
            start_of_job=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            command=_command(),
            since=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )

    def is_gone(self, here: Owner) -> bool:
        """Return whether `here`, which is the process that asks, can tell that this one does not run any more."""
        if self.job and self.job == here.job and self.start_of_job < here.start_of_job:
            return True
        if (self.host, self.machine) != (here.host, here.machine):
            return False
        if self.boot != here.boot:  # without a name of the machine, another of the same host name
            return bool(self.machine)
        if self.namespace != here.namespace:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's, of which /proc need not tell
            return False
        return self.started is not None and _start_of(self.pid) != self.started


@contextmanager
def owned(
    lock: Path,
    what: str,
    others: Callable[[], Iterable[Path]] = tuple,
    *,
    waits: bool = False,
) -> Iterator[None]:
    """Hold a lock while the body runs. A thread that holds it already may take it again.

    It is let go at the body's end, by an error too, and when the process is ended by a signal that it does not handle
    (but for SIGKILL; then the next start on this machine finds that the owner is gone). Processes that are forked in
    between do not own it.

    Args:
        lock: `lock_inside` or `lock_beside` of what is written. Missing parents are made.
        what: is written, for the message.
        others: locks that nobody else may hold meanwhile.
        waits: wait for another owner to finish, and say so; otherwise it is an error.

    Raises:
        UserError: another process or thread owns it, or the lock cannot be written. Nothing has been changed then.
    """
    key = lock.absolute()
    holder = _held.get(key)
    if holder is not None and holder[1:] == (os.getpid(), threading.get_ident()):
        yield
        return
    for other in others():  # first without a trace
        refuse_owned(other, what)
    claim = _acquire(lock, what, waits=waits)
    _held[key] = (claim, os.getpid(), threading.get_ident())
    try:
        with _released_by_signals():
            for other in others():
                refuse_owned(other, what)
            yield
    finally:
        _release(key)


def refuse_owned(lock: Path, what: str) -> None:
    """Raise the UserError of `owned` if another process that may be alive holds the lock; take nothing."""
    holder = _held.get(lock.absolute())
    if holder is not None and holder[1:] == (os.getpid(), threading.get_ident()):
        return
    here = Owner.this_process()
    for claim in _claims(lock):
        owner = _read_claim(claim)
        if owner is not None and not owner.is_gone(here):
            raise _refusal(what, claim, owner, here)


def release_all() -> None:
    """Let go of everything that this process owns: it is about to end without unwinding."""
    for key in list(_held):
        _release(key)


# By lock: the claim, and the process and thread that hold it. Copied by a fork, hence the process.
_held: dict[Path, tuple[Path, int, int]] = {}


def _acquire(lock: Path, what: str, *, waits: bool) -> Path:
    """Return this process's claim, in its place."""
    here, name = Owner.this_process(), uuid.uuid4().hex
    staged = lock.with_name(f"{STAGED_PREFIX}{name}")
    try:
        for _ in range(MAX_TRIES):
            _await_free(lock, what, here, waits=waits)
            if not staged.is_dir():
                staged.mkdir(parents=True)
                with (staged / f"{name}{CLAIM_SUFFIX}").open("x", encoding="utf-8") as file:
                    json.dump(asdict(here), file)
            try:
                staged.rename(lock)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                return lock / f"{name}{CLAIM_SUFFIX}"
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "check the path")
        raise UserError(f"{lock.parent} cannot be made or written: {error.strerror}; {advice}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    raise UserError(f"{lock} cannot be taken; delete it if nothing writes {what}")


def _await_free(lock: Path, what: str, here: Owner, *, waits: bool) -> None:
    """Return when nobody who may be alive holds the lock; UserError about its owner at once, unless this waits."""
    has_said = False
    while (error := _obstacle(lock, what, here)) is not None:
        if not waits:
            raise error
        if not has_said:
            tell(f"waiting: {error}")
        has_said = True
        time.sleep(WAIT_S)


def _obstacle(lock: Path, what: str, here: Owner) -> UserError | None:
    """Return why the lock cannot be taken now; claims of owners that are gone are removed."""
    for claim in _claims(lock):
        owner = _read_claim(claim)
        if owner is None:
            continue
        if not owner.is_gone(here):
            return _refusal(what, claim, owner, here)
        claim.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system renames onto an empty folder
        lock.rmdir()
    return None


def _claims(lock: Path) -> list[Path]:
    return sorted(lock.glob(f"*{CLAIM_SUFFIX}"))


def _read_claim(claim: Path) -> Owner | None:
    """Return the owner by a claim; None when it has just been let go. UserError for one that is damaged."""
    try:
        return Owner(**json.loads(claim.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise UserError(f"{claim} cannot be read; delete it if nothing is running there") from None


def _refusal(what: str, claim: Path, owner: Owner, here: Owner) -> UserError:
    """Return the line on who has it."""
    line = (
        f"{what} is being written by process {owner.pid} on {owner.host}, since {owner.since}: `{owner.command}`; "
        "wait for it, end it, or name another"
    )
    if (owner.host, owner.boot, owner.namespace) != (here.host, here.boot, here.namespace):
        line += f"; if it does not run any more, which cannot be seen from {here.host}, delete {claim}"
    return UserError(line)


def _release(key: Path) -> None:
    """Let go of one lock, if it is this process's own and not the one that it was forked from."""
    claim, pid, _ = _held.pop(key, (None, None, None))
    if claim is not None and pid == os.getpid():
        with suppress(OSError):
            claim.unlink(missing_ok=True)
            claim.parent.rmdir()


@contextmanager
def _released_by_signals() -> Iterator[None]:
    """Let go of the locks before a signal ends this process, in the way that it would have."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    unhandled = [number for number in ENDING_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in unhandled:
        signal.signal(number, _release_and_end)
    try:
        yield
    finally:
        for number in unhandled:
            if signal.getsignal(number) is _release_and_end:
                signal.signal(number, signal.SIG_DFL)


def _release_and_end(number: int, _frame: FrameType | None) -> None:
    release_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _start_of(pid: int) -> int | None:
    """Return when a process began, in clock ticks after the boot; None when it has ended or the system does not say."""
    status = _read(f"/proc/{pid}/stat")
    if not status:
        return None
    fields = status.rpartition(")")[2].split()  # the name before may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def _command() -> str:
    module = sys.modules["__main__"].__spec__
    program = (
        [Path(sys.argv[0]).name]
        if module is None
        else ["python", "-m", module.name.removesuffix(".__main__")]
    )
    return shlex.join([*program, *sys.argv[1:]])


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _digest(text: str) -> str:
    """Return a name that does not give the text away: the number of a machine is not for others."""
    return hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
