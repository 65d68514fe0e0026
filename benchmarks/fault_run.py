"""Running a case of fault_drill.py: launchers, processes, time, what is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tiny_run import TINY_RUN

START_LIMIT_S = 180  # from the start to the fault, on a busy machine
LIMIT_S = 60  # from the fault to the end
ORPHAN_S = 15  # what is left of a run so long after its launchers is an orphan
NUM_STEPS = 12
DISK = "64m"
ROOT = Path(__file__).resolve().parent.parent
MARK = "FAULT_DRILL_RUN"
KILLED_RANK = r"rank +: 1 .*\n +exitcode +: -9 "  # in torchrun's report

RECIPE: dict[str, Any] = TINY_RUN | {
    "data": {"max_fallback_share": 1.0},
    "curriculum": {**TINY_RUN["curriculum"], "group_size": {"1": 0.5, "2": 0.5}},
    "optim": {"num_steps": NUM_STEPS, "memory_lr": 1e-3, "backbone_lr": 1e-3},
    "checkpoint": {"every": 4},
}


@dataclass(frozen=True)
class Outcome:
    """What a broken run left behind."""

    seconds: float
    codes: tuple[int | None, ...]
    logs: tuple[str, ...]
    orphans: int
    output: Path

    @property
    def cause(self) -> str:
        """The run's own line about its end, else what the launcher says of a rank."""
        lines = [line for log in self.logs for line in log.splitlines()]
        own = [line for line in lines if line.startswith("scal3r: error:")]
        reported = [line for line in lines if re.match(r"step +\d+( skipped|:)", line)]
        found = [re.search(KILLED_RANK, log) for log in self.logs]
        return (own + reported + ["torchrun: rank 1 ended by signal 9" for match in found if match] + [""])[0]

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return json_lines(self.output / "metrics.jsonl")


@dataclass(frozen=True)
class Case:
    """A fault and what must come of it.

    Attributes:
        title, fault: for the table, and for fault_worker.py.
        verdict: complains about an outcome, or gives "".
        changes: overrides of the recipe.
        nodes: launchers, each with an equal share of the two ranks.
        on_small_disk: whether the run writes to a disk of its own.
        engine: configuration of `accelerate launch` (recipes/accelerate) to start it with, "" for torchrun.
        by_hand: which of two ranks are started without a launcher, as srun does; empty for a launcher.
        master: what MASTER_ADDR says then.
        is_port_taken: whether another program, which never answers, listens at the port.
        shm: size of /dev/shm; "" for the machine's.
    """

    title: str
    fault: str
    verdict: Callable[[Outcome], str]
    changes: tuple[str, ...] = ()
    nodes: int = 1
    on_small_disk: bool = False
    engine: str = ""
    by_hand: tuple[int, ...] = ()
    master: str = "127.0.0.1"
    is_port_taken: bool = False
    shm: str = ""


def run(case: Case, output: Path, data: Path) -> Outcome:
    """Run a case to its end."""
    mark = uuid.uuid4().hex
    clock = output.parent / f"{mark}.clock"
    recipe = output.parent / "recipe.json"  # JSON is YAML
    sources = [{"index": str(data / "index.parquet")}]
    document = RECIPE | {"output_dir": str(output), "data": RECIPE["data"] | {"sources": sources}}
    recipe.write_text(json.dumps(document))
    environment = os.environ | {
        MARK: mark,
        "DRILL_DATA": str(data),
        "DRILL_OUTPUT": str(output),
        "DRILL_CLOCK": str(clock),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "build/import_names")]),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    arguments = [str(ROOT / "benchmarks/fault_worker.py"), case.fault, str(recipe), *case.changes]
    port = _free_port()
    commands = _commands(case, port)
    logs = [output.parent / f"{mark}.{number}.log" for number in range(len(commands))]
    started = time.time()
    launchers = []
    with _listening(port) if case.is_port_taken else nullcontext():
        for (command, place), log in zip(commands, logs, strict=True):
            with log.open("w") as file:
                launchers.append(
                    subprocess.Popen(
                        [*_in_small_shm(case.shm), sys.executable, *command, *arguments],
                        env=environment | place,
                        stdout=file,
                        stderr=file,
                        start_new_session=True,
                    )
                )
        ended = _wait(launchers, mark, clock, started)
    orphans = _marked(mark)
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    began = float(clock.read_text()) if clock.exists() else started
    codes = tuple(launcher.wait() for launcher in launchers)
    return Outcome(ended - began, codes, tuple(log.read_text() for log in logs), len(orphans), output)


def _wait(launchers: Sequence[subprocess.Popen[bytes]], mark: str, clock: Path, started: float) -> float:
    """Wait for all processes of a run; return when the last one ended, or when patience did."""
    launchers_ended = None
    while _marked(mark):
        now = time.time()
        if launchers_ended is None and all(launcher.poll() is not None for launcher in launchers):
            launchers_ended = now
        began = float(clock.read_text()) if clock.exists() else started + START_LIMIT_S
        if now > began + LIMIT_S or (launchers_ended is not None and now > launchers_ended + ORPHAN_S):
            break
        time.sleep(0.1)
    return time.time()


def _commands(case: Case, port: int) -> list[tuple[list[str], dict[str, str]]]:
    """Return what Python is started with, without the worker's arguments, and what is added to its environment."""
    if case.by_hand:
        meeting = {"MASTER_ADDR": case.master, "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        return [([], meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in case.by_hand]
    return [(["-m", *_launcher(case, node, port)], {}) for node in range(case.nodes)]


def _launcher(case: Case, node: int, port: int) -> list[str]:
    if case.engine:
        config = str(ROOT / f"recipes/accelerate/{case.engine}.yaml")
        place = ["--num_processes", "2", "--main_process_port", str(port)]
        return ["accelerate.commands.launch", "--config_file", config, *place]
    torchrun = ["torch.distributed.run", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    if case.nodes == 1:
        return [*torchrun, "--nproc-per-node", "2"]
    return [*torchrun, "--nnodes", str(case.nodes), "--node-rank", str(node), "--nproc-per-node", "1"]


def _in_small_shm(size: str) -> list[str]:
    """Return the beginning of a command that gives the rest of it a /dev/shm of that size; root alone may."""
    if not size:
        return []
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


@contextmanager
def _listening(port: int) -> Iterator[None]:
    """Have the port, and leave whoever connects without an answer."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port))
        listener.listen(8)
        yield


def _marked(mark: str) -> list[int]:
    """Processes that inherited the mark of a run and are no zombies."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # gone, or not ours
            continue
        if f"{MARK}={mark}".encode() in environment:
            found.append(int(folder.name))
    return found


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none when it does not exist."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def place_for(case: Case, towns: Path) -> Iterator[tuple[Path, Path]]:
    """Yield an output folder and a copy of the data for a case, on a small disk if it wants one."""
    with tempfile.TemporaryDirectory(prefix="fault_drill_") as name:
        folder = Path(name)
        shutil.copytree(towns, folder / "data")
        output = folder / "run"
        output.mkdir()
        if case.on_small_disk:
            options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs"]
            subprocess.run(["mount", *options, str(output)], check=True)
        try:
            yield output, folder / "data"
        finally:
            if case.on_small_disk:
                subprocess.run(["umount", str(output)], check=True)
