"""Break runs on two ranks in every way we know, and see that each ends in time with its cause, or goes on.

Run: OMP_NUM_THREADS=1 python -m benchmarks.fault_drill [--only NAME ...]

Each case starts torchrun in a session of its own: once for both ranks, or ("2 nodes") once per rank, which is what
two machines look like: no launcher then ends the other rank. Seconds count from the fault to the end of the last
process of the run, reading processes included. Exit code 0 only if every case passes.
"""

from __future__ import annotations

import argparse
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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tiny_run import TINY_RUN
from scal3r_data_tools import synth

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
        told = [line for line in lines if re.match(r"step +\d+( skipped|:)", line)]
        found = [re.search(KILLED_RANK, log) for log in self.logs]
        return (own + told + ["torchrun: rank 1 ended by signal 9" for match in found if match] + [""])[0]

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl."""
        return _json_lines(self.output / "metrics.jsonl")


@dataclass(frozen=True)
class Case:
    """A fault and what must come of it.

    Attributes:
        title, fault: for the table, and for fault_worker.py.
        verdict: complains about an outcome, or gives "".
        changes: overrides of the recipe.
        nodes: launchers, each with an equal share of the two ranks.
        on_small_disk: whether the run writes to a disk of its own.
    """

    title: str
    fault: str
    verdict: Callable[[Outcome], str]
    changes: tuple[str, ...] = ()
    nodes: int = 1
    on_small_disk: bool = False


def ends_with(pattern: str, *, in_all_logs: bool = True) -> Callable[[Outcome], str]:
    """Expect the end of all processes, exit codes above 0 and a line of ours that matches, on every node."""

    def verdict(outcome: Outcome) -> str:
        if not all(outcome.codes):
            return f"exit codes {outcome.codes}"
        line = re.compile(rf"^scal3r: error: .*{pattern}", re.MULTILINE)
        found = [bool(line.search(log)) for log in outcome.logs]
        return "" if (all(found) if in_all_logs else any(found)) else f"no line with '{pattern}': {found}"

    return verdict


def names_the_killed(outcome: Outcome) -> str:
    """Expect rank 1 to be named as killed, by a surviving rank or by the launcher that ended it before it could."""
    complaint = ends_with("rank 1: process .* is gone", in_all_logs=False)(outcome)
    is_told = re.search(KILLED_RANK, outcome.logs[0]) is not None
    return "" if all(outcome.codes) and is_told and len(outcome.logs) == 1 else complaint


def goes_on(check: Callable[[Outcome], bool], what: str) -> Callable[[Outcome], str]:
    """Expect all steps, exit code 0, and one thing more."""

    def verdict(outcome: Outcome) -> str:
        if any(outcome.codes):
            return f"exit codes {outcome.codes}"
        if outcome.metrics()[-1]["step"] != NUM_STEPS or not (outcome.output / "model").is_dir():
            return "not finished"
        return "" if check(outcome) else what

    return verdict


def is_counted(outcome: Outcome) -> bool:
    """Whether the fallbacks in metrics.jsonl are those in data_faults.jsonl, and each sequence is told of once."""
    faults = _json_lines(outcome.output / "data_faults.jsonl")
    told = [line for line in outcome.logs[0].splitlines() if "another window takes the place of" in line]
    names = {fault["sequence"] for fault in faults}
    return len(faults) == outcome.metrics()[-1]["data/fallbacks"] > 0 and len(told) == len(names) == 1


def skipped_once(outcome: Outcome) -> bool:
    """Whether one step was skipped, and it was told."""
    return outcome.logs[0].count("skipped: loss or gradient not finite") == 1


def survives_a_full_disk(outcome: Outcome) -> str:
    """Expect the cause by name, the older checkpoint in place, and a new start that goes on from there."""
    if any(outcome.codes) and (complaint := ends_with("No space left on device")(outcome)):
        return complaint
    complete = sorted((outcome.output / "checkpoints").glob("step_????????"))
    if not complete:
        return "the older checkpoint is gone"
    before = (outcome.output / "metrics.jsonl").read_text().splitlines()[:4]
    (outcome.output / "filler").unlink()
    again = run(Case("", "none", ends_with("")), outcome.output, outcome.output.parent / "data")
    if any(again.codes) or again.metrics()[-1]["step"] != NUM_STEPS:
        return f"the new start fails: {again.cause}"
    after = (outcome.output / "metrics.jsonl").read_text().splitlines()[:4]
    return "" if before == after else "the new start began from scratch"


READERS = ("data.num_workers=1",)
SOON = ("parallel.timeout_minutes=0.2",)
CASES = (
    Case("one rank raises", "bug", ends_with("rank 1: ZeroDivisionError: injected bug")),
    Case("one rank raises, 2 nodes", "bug", ends_with("rank 1: ZeroDivisionError: injected bug"), nodes=2),
    Case("one rank is killed", "killed", names_the_killed),
    Case("one rank is killed, readers", "killed", names_the_killed, READERS),
    Case("one rank is killed, 2 nodes", "killed", names_the_killed, nodes=2),
    Case("one rank is killed, readers, 2 nodes", "killed", names_the_killed, READERS, nodes=2),
    Case("one rank is stuck, 2 nodes", "stuck", ends_with("rank 0: waited in vain"), SOON, nodes=2),
    Case("NaN on one rank for good", "nan_always", ends_with("stopped after 5 skipped steps in a row")),
    Case("NaN on one rank once", "nan_once", goes_on(skipped_once, "not skipped once")),
    Case("files deleted while it runs", "deleted", goes_on(is_counted, "not counted")),
    Case("files deleted, readers", "deleted", goes_on(is_counted, "not counted"), READERS),
    Case("disk full while saving", "disk_full", survives_a_full_disk, on_small_disk=True),
    Case(
        "ranks with different recipes", "other_recipe", ends_with("ranks differ in optim.memory_lr: 0.001 on")
    ),
    Case("a recipe that one rank refuses, 2 nodes", "bad_recipe", ends_with("unknown key"), nodes=2),
    Case(
        "a reading process is killed", "reader_killed", ends_with("rank 1: .* reading process died"), READERS
    ),
    Case(
        "a reading process is killed, 2 nodes",
        "reader_killed",
        ends_with("rank 1: .*reading process died"),
        READERS,
        nodes=2,
    ),
    Case("a reading process has a bug", "reader_bug", ends_with("rank 1: IndexError: injected bug"), READERS),
    Case(
        "the launcher is killed",
        "launcher_killed",
        ends_with("the launcher or the first process is gone"),
        ("optim.num_steps=1000000",),
    ),
)


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
    logs = [output.parent / f"{mark}.{node}.log" for node in range(case.nodes)]
    port = _free_port()
    started = time.time()
    launchers = []
    for node, log in enumerate(logs):
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *_placement(case.nodes, node, port),
            *arguments,
        ]
        with log.open("w") as file:
            launchers.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
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


def _placement(nodes: int, node: int, port: int) -> list[str]:
    if nodes == 1:
        return ["--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    place = ["--nnodes", str(nodes), "--node-rank", str(node), "--nproc-per-node", "1"]
    return [*place, "--master-addr", "127.0.0.1", "--master-port", str(port)]


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


def _json_lines(path: Path) -> list[dict[str, Any]]:
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


def main(argv: Sequence[str]) -> int:
    """Run the cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="faults of fault_worker.py; default: all")
    parser.add_argument("--logs", action="store_true", help="print the logs of cases that fail")
    arguments = parser.parse_args(argv)
    cases = [case for case in CASES if not arguments.only or case.fault in arguments.only]
    failed = 0
    print(f"{'fault':<40} {'seconds':>7} {'exit':>6} {'orphans':>7}  verdict / cause")
    with tempfile.TemporaryDirectory(prefix="fault_drill_towns_") as name:
        towns = Path(name) / "towns"
        synth.main(towns, ["num_sequences=4", "num_frames=20", "height=28", "width=42", "num_workers=1"])
        for case in cases:
            with place_for(case, towns) as (output, data):
                outcome = run(case, output, data)
                complaint = case.verdict(outcome)
            if outcome.orphans:
                complaint = complaint or f"{outcome.orphans} processes left"
            failed += bool(complaint)
            codes = "/".join(str(code) for code in outcome.codes)
            verdict = f"FAILED: {complaint}" if complaint else "ok"
            print(
                f"{case.title:<40} {outcome.seconds:7.1f} {codes:>6} {outcome.orphans:7d}  {verdict}",
                flush=True,
            )
            print(f"    {outcome.cause[:200]}", flush=True)
            if complaint and arguments.logs:
                print(*outcome.logs, sep="\n----\n")
    print(f"{len(cases) - failed} of {len(cases)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
