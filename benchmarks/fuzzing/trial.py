"""One input, read in a child process that was forked for it and has limits, and what came of it."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EXIT_TRACEBACK = 70
REFUSED = 2
ERROR_LINE = "scal3r: error: "
TRACEBACK = "Traceback (most recent call last)"
MIB = 1 << 20
FAULTS = ("traceback", "hang", "crash", "wrong exit", "unnamed", "memory")


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Attributes:
        address_mib: address space beyond that of the parent [MiB].
        cpu_s: processor time [s].
        wall_s: time [s].
        memory_mib: memory beyond that of the parent, more of which is a fault [MiB].
    """

    address_mib: int = 4096
    cpu_s: int = 20
    wall_s: float = 120.0
    memory_mib: int = 1024


@dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Attributes:
        verdict: "refused" (one line, exit code 2), "accepted" (exit code 0), or one of FAULTS.
        line: the refusal, or the last line of the traceback.
        memory_mib: taken beyond what the parent had.
        cpu_s: processor time.
        stderr: all that was said.
    """

    verdict: str
    line: str
    memory_mib: float
    cpu_s: float
    stderr: str


def run_trial(
    read: Callable[[], int | None],
    folder: Path,
    limits: Limits,
    named: tuple[str, ...],
    codes: tuple[int, ...],
) -> Outcome:
    """Read an input in a child.

    Args:
        read: what a command's handler would do; it returns an exit code.
        folder: that is the child's own, also for temporary files.
        limits: of the child.
        named: words of which the refusal must hold one, such as the file's name; none: any refusal will do.
        codes: exit codes of success.
    """
    outputs = [folder / "stdout", folder / "stderr"]
    ready, start = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        _become_child(read, folder, outputs, limits, start)
    os.close(start)
    with os.fdopen(ready, "rb") as pipe:
        began = float(pipe.readline() or b"0")
    is_late = _wait_or_kill(pid, limits.wall_s)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    stderr = outputs[1].read_text("utf-8", "replace") if outputs[1].exists() else ""
    memory = max(0.0, usage.ru_maxrss / 1024 - began)
    verdict, line = _verdict(-signal.SIGKILL if is_late else code, stderr, named, codes)
    if verdict in ("refused", "accepted") and memory > limits.memory_mib:
        verdict, line = "memory", f"{memory:.0f} MiB; {line}"
    return Outcome(verdict, line, memory, usage.ru_utime + usage.ru_stime, stderr)


def _become_child(
    read: Callable[[], int | None], folder: Path, outputs: list[Path], limits: Limits, start: int
) -> None:
    code = EXIT_TRACEBACK
    try:
        os.setsid()
        os.write(start, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n".encode())
        os.close(start)
        files = [os.open(os.devnull, os.O_RDONLY)]
        files += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in outputs]
        for source, target in zip(files, (0, 1, 2), strict=True):
            os.dup2(source, target)
        sys.stdout, sys.stderr = (
            os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
            for number in (1, 2)
        )
        os.chdir(folder)
        tempfile.tempdir = str(folder)
        space = _address_space() + limits.address_mib * MIB
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = int(read() or 0)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else EXIT_TRACEBACK
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _wait_or_kill(pid: int, wall_s: float) -> bool:
    """Wait until a process ends; whether it had to be killed."""
    handle = os.pidfd_open(pid)
    try:
        if select.select([handle], [], [], wall_s)[0]:
            return False
        os.killpg(pid, signal.SIGKILL)
        return True
    finally:
        os.close(handle)


def _verdict(code: int, stderr: str, named: tuple[str, ...], codes: tuple[int, ...]) -> tuple[str, str]:
    lines = stderr.splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "")
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "hang", last
    if TRACEBACK in stderr or code == EXIT_TRACEBACK:
        return "traceback", last
    if code < 0:
        return "crash", f"{signal.Signals(-code).name}; {last}"
    errors = [line for line in lines if line.startswith(ERROR_LINE)]
    if code in codes:
        return "accepted", ""
    if code != REFUSED or len(errors) != 1:
        return "wrong exit", f"exit code {code}, {len(errors)} lines; {last}"
    if named and not any(word in errors[0] for word in named):
        return "unnamed", errors[0]
    return "refused", errors[0].removeprefix(ERROR_LINE)
