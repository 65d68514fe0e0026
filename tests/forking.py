"""Programs started by forking a process that imported the library once.

Importing torch, transformers and the library takes 5 seconds of processor time, and tests start some hundred Python
processes. `ForkServer` starts one that imports and then only forks: each fork runs a program as `python PROGRAM`
would, in a session of its own, with its own environment, working folder and output. What a fork cannot show (imports,
the launcher, the interpreter's own options) is tested with real processes.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT_ROOT = Path(__file__).resolve().parent.parent
PRELOADED = ("scal3r_train.train", "scal3r_train.inference.reconstruct", "scal3r_train.cli")
LIMIT_S = 280.0


@dataclass
class ForkedProgram:
    """A program that was started: its process, also the leader of a session, and the files of its output."""

    server: ForkServer
    program: list[str]
    pid: int
    stdout: Path
    stderr: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or minus the signal that ended it, or None while it runs."""
        if self.returncode is None:
            self.returncode = self.server.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Return how it ended; a program that takes longer is killed."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(self.program, timeout, stderr=self.stderr.read_bytes())
            time.sleep(0.01)
        assert self.returncode is not None
        return subprocess.CompletedProcess(
            self.program, self.returncode, self.stdout.read_text(), self.stderr.read_text()
        )

    def kill(self) -> None:
        """Kill it and what it started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.01)


class ForkServer:
    """Starts programs; its process is started with the first of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._num_started = 0

    def start(
        self, *program: object, environment: dict[str, str] | None = None, folder: Path = PROJECT_ROOT
    ) -> ForkedProgram:
        """Start `python PROGRAM`: -m MODULE, -c CODE or a file, and arguments; `environment` is added to ours."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="forks_")
        self._num_started += 1
        words = [str(word) for word in program]
        stdout, stderr = (Path(self._folder.name, f"{self._num_started}.{end}") for end in ("out", "err"))
        request = {
            "program": words,
            "environment": os.environ | (environment or {}),
            "folder": str(folder),
            "outputs": [str(stdout), str(stderr)],
        }
        return ForkedProgram(self, words, self.ask(request), stdout, stderr)

    def run(
        self, *program: object, environment: dict[str, str] | None = None, timeout: float = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return self.start(*program, environment=environment).wait(timeout)

    def instead_of_subprocess(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] = os.environ,
        cwd: Path = PROJECT_ROOT,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Do what `subprocess.run` does with `[env NAME=VALUE ...] python PROGRAM`, to be put in its place."""
        words = [str(word) for word in command]
        python = words.index(sys.executable)
        settings = dict(word.split("=", 1) for word in words[:python] if "=" in word)
        done = self.start(*words[python + 1 :], environment=env | settings, folder=cwd).wait()
        for name, text in (("stdout", done.stdout), ("stderr", done.stderr)):
            target = options.get(name)
            if isinstance(target, io.IOBase):
                target.write(text.encode())
            elif target is None and not options.get("capture_output"):
                getattr(sys, name).write(text)
        return done

    def start_ranks(self, num_processes: int, *program: object) -> list[ForkedProgram]:
        """Start a program on ranks that talk over the loopback interface only, as a launcher would."""
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        shared = {
            "WORLD_SIZE": str(num_processes),
            "LOCAL_WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        return [
            self.start(*program, environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(num_processes)
        ]

    def run_ranks(
        self, num_processes: int, *program: object, timeout: float = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on ranks to the end of all; the code is the first that is not 0, outputs follow by rank."""
        started = self.start_ranks(num_processes, *program)
        try:
            done = [rank.wait(timeout) for rank in started]
        finally:
            for rank in started:
                rank.kill()
        code = next((each.returncode for each in done if each.returncode), 0)
        out, err = (
            "".join(texts) for texts in zip(*((each.stdout, each.stderr) for each in done), strict=True)
        )
        return subprocess.CompletedProcess([str(word) for word in program], code, out, err)

    def ask(self, request: dict[str, Any]) -> Any:
        """Return the server's answer."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking"],
                cwd=PROJECT_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the server."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(60)
        if self._folder is not None:
            self._folder.cleanup()


def serve() -> dict[str, Any] | None:
    """Answer requests until they end; in a fork, return its request."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print while they are imported
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork shares the pages that its collector leaves alone
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                return request
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return None


def become(request: dict[str, Any]) -> None:
    """Run the program in this process, a fork of the server."""
    os.setsid()
    for fd in range(3, 64):  # the server's pipes
        try:
            os.close(fd)
        except OSError:
            continue
    outputs = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in request["outputs"]]
    for source, target in zip([os.open(os.devnull, os.O_RDONLY), *outputs], (0, 1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    warnings.filterwarnings("ignore", message=".*found in sys.modules after import of package")
    program = request["program"]
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    elif program[0] == "-c":
        sys.argv = ["-c", *program[2:]]
        exec(program[1], {"__name__": "__main__"})  # noqa: S102 - a test's own words, as after `python -c`
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    job = serve()
    if job is not None:
        become(job)
