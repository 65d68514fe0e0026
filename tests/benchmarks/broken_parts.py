"""Parts that do not end as they should, and a part that does; nothing here imports torch."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks.gpu.part import Day, Part

COLUMNS = {"value": "value"}
LIMIT_S = 30


def results_of(device: str = "cpu", size: str = "tiny") -> dict[str, Any]:
    return {"command": "c", "date": "d", "size": size, "device": device, "parts": {}}


def part(function: str, limit_s: float = LIMIT_S) -> Part:
    return Part(function, function, f"tests.benchmarks.broken_parts:{function}", limit_s, COLUMNS)


def well(day: Day) -> None:
    day.record(value=1, goldens=day.goldens.name)


def too_slow(day: Day) -> None:
    """Record a row, start a process that would outlive this one, and never end."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    day.record(value=2, child=child.pid)
    time.sleep(600)


def wrong(day: Day) -> None:
    day.record(value=3)
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def killed(day: Day) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def cut_short(day: Day) -> None:
    """End without a word, as a crash of a library may."""
    os._exit(7)
