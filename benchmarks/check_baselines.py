"""Has anything become slower or larger, relative to what it is measured against? Before a release, and by hand.

    python -m benchmarks.check_baselines                      all; about ten minutes of processor time
    python -m benchmarks.check_baselines reading alignment    some
    python -m benchmarks.check_baselines --record             write benchmarks/baselines/*.json anew

Runs the benchmarks that print ratios side by side and compares with the recorded ones: one line for each ratio of times
that is more than 15 % worse and each ratio of bytes that is more than 1 % worse, and exit code 1 if there is any. Two
runs must agree that a time is worse, since a neighbour on the machine can spoil one of them. Ratios that have become
better are printed too: record them, in a commit of their own that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch

from benchmarks.findings import Findings
from scal3r_train.parallel.process import device_name, local_device

FOLDER = Path(__file__).resolve().parent / "baselines"
ALLOWED = {"time": 1.15, "bytes": 1.01}
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "alignment": (),
    "context_parallel": (),
    "plan_memory": (),
    "reading": (),
    "reconstruct": ("--rounds", "5"),
    "train_step": (),
}
THREADS = {"OMP_NUM_THREADS": "1"}


def run(name: str) -> Findings:
    """Run a benchmark, let it print, and return its ratios."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "findings.json"
        subprocess.run([*command(name), "--json", str(file)], check=True, env=environment())
        return Findings.load(file)


def command(name: str) -> list[str]:
    """Return the command line of a benchmark."""
    return [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name]]


def environment() -> dict[str, str]:
    """Return the environment of a benchmark: one thread a process."""
    return dict(os.environ) | THREADS


def worse(recorded: Findings, now: Findings) -> list[str]:
    """Return a line for each ratio that is worse than allowed, is gone, or is not recorded."""
    lines = []
    for kind, allowed in ALLOWED.items():
        before, after = asdict(recorded)[kind], asdict(now)[kind]
        for name in before.keys() | after.keys():
            if name not in after:
                lines.append(f"{name}: recorded, but not measured any more")
            elif name not in before:
                lines.append(f"{name}: {after[name]:.4g}, not recorded yet")
            elif not after[name] <= allowed * before[name]:  # NaN is worse
                lines.append(
                    f"{name}: {change(before[name], after[name])}, allowed {allowed - 1:+.0%} ({kind})"
                )
    return sorted(lines)


def better(recorded: Findings, now: Findings) -> list[str]:
    """Return a line for each ratio that has become better by more than the same margin."""
    lines = []
    for kind, allowed in ALLOWED.items():
        before, after = asdict(recorded)[kind], asdict(now)[kind]
        lines += [
            f"{name}: {change(before[name], after[name])}"
            for name in before.keys() & after.keys()
            if after[name] * allowed < before[name]
        ]
    return sorted(lines)


def change(before: float, after: float) -> str:
    """Return two ratios and how far one is from the other."""
    return f"{before:.4g}, now {after:.4g} ({after / before - 1:+.1%})" if before else f"0, now {after:.4g}"


def best_of(first: Findings, second: Findings) -> Findings:
    """Return the smaller of two runs' ratios of times, and the larger of their ratios of bytes."""
    time = {name: min(value, second.time.get(name, value)) for name, value in first.time.items()}
    sizes = {name: max(value, second.bytes.get(name, value)) for name, value in first.bytes.items()}
    return Findings(second.time | time, second.bytes | sizes)


def check(name: str) -> list[str]:
    """Run a benchmark, again if it seems worse, and return what is worse than recorded."""
    file = FOLDER / f"{name}.json"
    if not file.is_file():
        return [f"no {file.name} yet: --record writes it"]
    recorded, now = Findings.load(file), run(name)
    if worse(recorded, now):
        now = best_of(now, run(name))
    for line in better(recorded, now):
        print(f"{name}: better: {line}")
    machine = json.loads(file.read_text(encoding="utf-8"))["machine"]
    if machine != this_machine():
        print(f"{name}: recorded on {machine}; this is {this_machine()}")
    return worse(recorded, now)


def record(name: str, note: str) -> None:
    """Run a benchmark, twice if it has times, of which the better run counts, and write its baseline."""
    found = run(name)
    if found.time:
        found = best_of(found, run(name))
    words = " ".join(["python", *command(name)[1:]])
    write(FOLDER / f"{name}.json", found, {"command": words, "note": note})


def write(file: Path, found: Findings, about: Mapping[str, str]) -> None:
    """Write a baseline with the machine and the day it came from."""
    rounded = {
        kind: {name: float(f"{value:.5g}") for name, value in ratios.items()}
        for kind, ratios in asdict(found).items()
    }
    document = {**about, "machine": this_machine(), "date": date.today().isoformat(), **rounded}
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def this_machine() -> str:
    """Return processor or device, and the versions of torch and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return ", ".join(
        filter(None, [processor, device_name(local_device()), f"Python {platform.python_version()}"])
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or record; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--record", action="store_true", help="write the baselines instead of checking them")
    parser.add_argument("--note", default="", help="kept with what is recorded")
    asked = parser.parse_args(arguments)
    if unknown := sorted(set(asked.names) - set(BENCHMARKS)):
        parser.error(f"no baseline is called {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    lines = []
    for name in asked.names or BENCHMARKS:
        if asked.record:
            record(name, asked.note)
        else:
            lines += [f"{name}: {line}" for line in check(name)]
    print("\n".join(lines) if lines else "recorded" if asked.record else "nothing is worse")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
