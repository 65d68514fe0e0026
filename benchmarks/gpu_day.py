"""Everything that only a GPU can tell, in one command, for a machine that is there for minutes.

    python -m benchmarks.gpu_day --out FOLDER                               one CUDA device, full size, 8 minutes
    python -m benchmarks.gpu_day --out FOLDER --parts frames,traffic        some parts only
    python -m benchmarks.gpu_day --out FOLDER --device cpu --size tiny      a rehearsal, a minute
    python -m benchmarks.gpu_day --insert FOLDER/gpu_day.json ...           put the tables into docs/performance.md

Parts (benchmarks/gpu/parts.py) run in the order of their worth, each in a process of its own with its own limit: one
that crashes, runs out of memory or out of time costs no other part, and what it had recorded stays. The folder holds
gpu_day.json, written anew after every row, gpu_day.md, the same as tables, and gpu_day.log, all that the parts printed.
Nothing starts that could not end within the budget's seconds. DeepSpeed, trackers, decoders of video and renderers are
not needed; weights and images are random. Of several files after --insert the later one counts where both have a part.

This process imports no torch: what breaks there breaks in a part.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.gpu.part import Part, write_json, write_text
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.run_part import NO_DEVICE
from benchmarks.gpu.sizes import SIZES
from benchmarks.gpu.table import inserted, markdown

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
BUDGET_S = 480.0
LEAST_S = 15.0  # a part takes so long to start at all
POLL_S = 0.05
GOLDENS = (ROOT.parent / "shared" / "goldens", ROOT / "shared" / "goldens")


def run_parts(
    parts: Sequence[Part], results: dict[str, Any], folder: Path, budget_s: float, goldens: Path
) -> dict[str, Any]:
    """Run parts one after another and return `results` with theirs; files in `folder` are kept up to date."""
    ends_at = time.time() + budget_s
    results["parts"] = {}

    def save(name: str, found: dict[str, Any]) -> None:
        results["parts"][name] = found
        write_json(folder / "gpu_day.json", results)
        write_text(folder / "gpu_day.md", markdown(results, tuple(parts)))

    with tempfile.TemporaryDirectory() as work, (folder / "gpu_day.log").open("ab") as log:
        for number, part in enumerate(parts):
            limit_s = min(part.limit_s, ends_at - time.time())
            if number > 0 and limit_s < min(LEAST_S, part.limit_s):
                save(part.name, outcome("not run", "the budget is spent", 0.0, []))
                continue
            sys.stderr.write(f"{part.name} (at most {limit_s:.0f} s)\n")
            log.write(f"\n==== {part.name}\n".encode())
            log.flush()
            found = run_part(part, results, limit_s, Path(work), log, goldens, save)
            save(part.name, found)
            sys.stderr.write(f"  {found['status']} after {found['seconds']:.1f} s {found['reason']}\n")
            if found["returncode"] == NO_DEVICE:
                break
    return results


def outcome(
    status: str, reason: str, seconds: float, rows: list[Any], returncode: int | None = None
) -> dict[str, Any]:
    """Return what is kept of a part."""
    return {
        "status": status,
        "reason": reason,
        "seconds": round(seconds, 1),
        "rows": rows,
        "returncode": returncode,
    }


def run_part(
    part: Part,
    results: Mapping[str, Any],
    limit_s: float,
    work: Path,
    log: Any,
    goldens: Path,
    save: Callable[[str, dict[str, Any]], None],
) -> dict[str, Any]:
    """Run one part's process and return its outcome; rows are saved as they come."""
    rows_file, began, log_began = work / f"{part.name}.json", time.time(), log.tell()
    arguments = [part.function, rows_file, results["size"], results["device"], goldens, began + limit_s]
    command = [sys.executable, "-m", "benchmarks.gpu.run_part", *map(str, arguments)]
    environment = dict(os.environ) | {"TMPDIR": str(work), "PYTHONUNBUFFERED": "1"} | dict(part.environment)
    if results["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # else the library would choose the GPU
    # A group of its own, so that it can be ended with all that it has started (compilers of kernels).
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=os.setpgrp,
    )
    is_late, seen = False, -1
    try:
        while process.poll() is None:
            is_late = time.time() - began > limit_s
            if is_late:
                break
            if rows_file.is_file() and rows_file.stat().st_mtime_ns != seen:
                seen = rows_file.stat().st_mtime_ns
                save(part.name, outcome("running", "", time.time() - began, read_rows(rows_file)))
            time.sleep(POLL_S)
    finally:
        end_group(process)
    seconds, rows = time.time() - began, read_rows(rows_file)
    if is_late:
        return outcome("out of time", f"ended after {limit_s:.0f} s", seconds, rows, process.returncode)
    if process.returncode != 0:
        return outcome(
            "failed", reason_of(process.returncode, log, log_began), seconds, rows, process.returncode
        )
    return outcome("ok", "", seconds, rows, 0)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part's process, if it runs, and whatever it has left running."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def read_rows(file: Path) -> list[Any]:
    """Return the rows that a part has recorded so far."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []


def reason_of(returncode: int, log: Any, log_began: int) -> str:
    """Return why a part failed: the signal, or the last line that it printed."""
    if returncode < 0:
        return f"ended by signal {signal.Signals(-returncode).name}"
    with open(log.name, "rb") as file:
        file.seek(log_began)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"exit code {returncode}")[:300]


def chosen(names: str | None) -> tuple[Part, ...]:
    """Return the parts called so, in their own order; all for None.

    Raises:
        ValueError: no part is called so.
    """
    wanted = [part.name for part in PARTS] if names is None else names.split(",")
    unknown = sorted(set(wanted) - {part.name for part in PARTS})
    if unknown:
        raise ValueError(
            f"no part is called {unknown[0]}; there are {', '.join(part.name for part in PARTS)}"
        )
    return tuple(part for part in PARTS if part.name in wanted)


def joined(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of several runs as one: of each part the latest."""
    parts = {
        name: found for one in results for name, found in one["parts"].items() if found["status"] != "not run"
    }
    return results[0] | {"parts": parts}


def ended(_signal: int, _frame: object) -> None:
    """Leave in order, so that the part which runs is ended too."""
    sys.exit(143)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure or publish, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="FOLDER", help="measure; files go here")
    what.add_argument("--insert", type=Path, nargs="+", metavar="JSON", help="measure nothing, publish these")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--parts", help="names, separated by commas; default: all")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for all parts together")
    parser.add_argument("--goldens", type=Path, help="folder of recorded tensors; default: ../shared/goldens")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="where --insert puts the tables")
    asked = parser.parse_args(arguments)
    try:
        parts = chosen(asked.parts)
        if asked.insert:
            results = joined([json.loads(path.read_text(encoding="utf-8")) for path in asked.insert])
            write_text(
                asked.document,
                inserted(asked.document.read_text(encoding="utf-8"), results, parts).rstrip("\n"),
            )
            return 0
    except (ValueError, OSError) as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, ended)
    asked.out.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:] if arguments is None else arguments
    results = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu_day", *words]),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "size": asked.size,
        "device": asked.device,
    }
    goldens = asked.goldens or next((folder for folder in GOLDENS if folder.is_dir()), GOLDENS[0])
    run_parts(parts, results, asked.out.resolve(), asked.budget, goldens.resolve())
    sys.stdout.write(f"{markdown(results, parts)}\n")
    return 0 if all(found["status"] == "ok" for found in results["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
