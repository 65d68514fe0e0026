"""Break runs on two ranks in every way we know, and see that each ends in time with its cause, or goes on.

Run: OMP_NUM_THREADS=1 python -m benchmarks.fault_drill [--only NAME ...]

Each case starts torchrun in a session of its own: once for both ranks, or ("2 nodes") once per rank, which is what
two machines look like, where no launcher ends the other rank; or `accelerate launch`; or the ranks themselves, as srun
does ("by hand"). Seconds count from the fault to
the end of the last process of the run, reading processes included. Exit code 0 only if every case passes.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.fault_run import KILLED_RANK, NUM_STEPS, Case, Outcome, json_lines, place_for, run
from scal3r_data_tools import synth


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
    is_reported = re.search(KILLED_RANK, outcome.logs[0]) is not None
    return "" if all(outcome.codes) and is_reported and len(outcome.logs) == 1 else complaint


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
    """Whether the fallbacks in metrics.jsonl are those in data_faults.jsonl, and each sequence is reported once."""
    faults = json_lines(outcome.output / "data_faults.jsonl")
    reported = [line for line in outcome.logs[0].splitlines() if "another window takes the place of" in line]
    names = {fault["sequence"] for fault in faults}
    return len(faults) == outcome.metrics()[-1]["data/fallbacks"] > 0 and len(reported) == len(names) == 1


def skipped_once(outcome: Outcome) -> bool:
    """Whether one step was skipped, and it was reported."""
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
SOON = ("parallel.timeout_minutes=0.2", "parallel.start_timeout_minutes=0.2")
BOTH = (0, 1)
CASES = (
    Case("one rank raises", "bug", ends_with("rank 1: ZeroDivisionError: injected bug")),
    Case("one rank raises, 2 nodes", "bug", ends_with("rank 1: ZeroDivisionError: injected bug"), nodes=2),
    Case("one rank is killed", "killed", names_the_killed),
    Case("one rank is killed, readers", "killed", names_the_killed, READERS),
    Case("one rank is killed, 2 nodes", "killed", names_the_killed, nodes=2),
    Case("one rank is killed, readers, 2 nodes", "killed", names_the_killed, READERS, nodes=2),
    Case("one rank raises, accelerate", "bug", ends_with("rank 1: ZeroDivisionError"), engine="zero2"),
    Case("one rank is killed, accelerate", "killed", names_the_killed, engine="fsdp2"),
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
    Case(
        "the master is out of reach, by hand",
        "unreachable",
        ends_with("(cannot be reached at|did not all come to|what listens at) 192.0.2.1"),
        SOON,
        by_hand=BOTH,
        master="192.0.2.1",  # of a network that exists in documents only
    ),
    Case(
        "rank 0 is never started, by hand",
        "alone",
        ends_with("the first process cannot be reached"),
        SOON,
        by_hand=(1,),
    ),
    Case("rank 1 is never started, by hand", "alone", ends_with("did not all come"), SOON, by_hand=(0,)),
    Case("rank 1 never comes", "absent", ends_with("rank 1: never came"), SOON),
    Case(
        "the port is taken, by hand",
        "port_taken",
        ends_with("(is taken by another program|another program has that port)"),
        SOON,
        by_hand=BOTH,
        is_port_taken=True,
    ),
    Case(
        "/dev/shm of 64 kB, 2 readers",
        "small_shm",
        ends_with("rank .: .*: no room in /dev/shm"),
        ("data.num_workers=2",),
        shm="64k",
    ),
)


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
