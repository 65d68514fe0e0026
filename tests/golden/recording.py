"""Recordings of runs: their files, the machine they were made on, and how a run made again is compared."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent / "trajectories"

# On another machine sums are taken in another order, and what follows carries that on. Relative to the value for a
# step, to the largest value of its column for a table. Worst differences measured on 2026-11-29 between AVX512 and
# ATEN_CPU_CAPABILITY=avx2 with ONEDNN_MAX_CPU_ISA=AVX2, or ATEN_CPU_CAPABILITY=default: loss 1.1e-6, gradient norm
# 5.7e-6, trajectory 1.2e-5 (each seam adds to it), mean of points 2.8e-6, their deviation 1.1e-6; the rest below 5e-7
# and the number of points equal. Three and a half times that is allowed.
TOLERANCE = 1e-6
WIDER = {
    "loss": 4e-6,
    "grad_norm": 2e-5,
    "trajectory": 4e-5,
    "tum": 4e-5,
    "kitti": 4e-5,
    "point_mean": 1e-5,
    "point_std": 4e-6,
}
PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "pillow", "accelerate", "deepspeed")
THREADS = {"OMP_NUM_THREADS": "1"}  # of each process of a run, whatever is set outside
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")


@dataclass
class Outcome:
    """What came out of a run: hashes say that bits are equal, numbers by how much they are not."""

    commands: list[str]
    sha256: dict[str, str]
    numbers: dict[str, Any]  # number, list of numbers (one a step, for training) or list of rows


@dataclass(frozen=True)
class Recording:
    """An outcome with where it comes from."""

    run: str
    commit: str
    machine: dict[str, str]
    outcome: Outcome

    @classmethod
    def load(cls, name: str) -> Recording:
        """Read the recording of a run."""
        content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        return cls(**content | {"outcome": Outcome(**content["outcome"])})

    def save(self) -> Path:
        """Write the recording: a line for each series and each row of a table, so that its diff can be read."""
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{self.run}.json"
        path.write_text(_with_rows_on_lines(asdict(self)) + "\n", encoding="utf-8")
        return path

    def differences(self, outcome: Outcome, machine: dict[str, str]) -> list[str]:
        """Return a line for each thing that is not as recorded, none if all is; the last one says what to do."""
        others = [key for key in self.machine | machine if self.machine.get(key) != machine.get(key)]
        found = _differing_numbers(self.outcome.numbers, outcome.numbers, exact=not others)
        if not others:
            found += _differing_hashes(self.outcome.sha256, outcome.sha256)
        if not found:
            return []
        how = f"to a tolerance, since {', '.join(others)} differ" if others else "bit for bit"
        return [
            f"{self.run} is not what it was at {self.commit[:12]}, compared {how}:",
            *(f"  {line}" for line in found),
            f"If this is meant: `python -m tests.golden.record {self.run}`; record in its own commit and say why.",
        ]


def this_machine() -> dict[str, str]:
    """Return what the last bits of results hang on: processor, vector instructions, threads, libraries."""
    versions = {name: _version(name) for name in PACKAGES}
    switches = {name: os.environ.get(name, "not set") for name in SWITCHES}
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        **{"processor": _processor(), "cpu_capability": capability, "libc": " ".join(platform.libc_ver())},
        **THREADS,
        **switches,
        **versions,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    """Return vendor, family, model and vector instructions of the processor, from Linux where it says."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return f"{platform.machine()} {platform.processor()}"
    first = path.read_text().split("\n\n")[0].splitlines()
    entries = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first)}
    names = ("vendor_id", "cpu family", "model", "model name")
    vectors = [flag for flag in entries.get("flags", "").split() if flag.startswith(("avx", "fma", "amx"))]
    return ", ".join([*(f"{name} {entries[name]}" for name in names if name in entries), " ".join(vectors)])


def _differing_hashes(recorded: dict[str, str], now: dict[str, str]) -> list[str]:
    names = sorted({*recorded, *now})
    pairs = [(name, recorded.get(name, "absent"), now.get(name, "absent")) for name in names]
    return [f"sha256 of {name}: recorded {a[:16]}, now {b[:16]}" for name, a, b in pairs if a != b]


def _differing_numbers(recorded: dict[str, Any], now: dict[str, Any], *, exact: bool) -> list[str]:
    lines = [f"{name}: only {'recorded' if name in recorded else 'now'}" for name in {*recorded} ^ {*now}]
    for name in recorded:
        if name in now:
            tolerance = 0.0 if exact else WIDER.get(name, TOLERANCE)
            lines += first_difference(
                name, np.asarray(recorded[name], float), np.asarray(now[name], float), tolerance
            )
    return lines


def first_difference(name: str, recorded: np.ndarray, now: np.ndarray, tolerance: float) -> list[str]:
    """Return a line on the first number that is further off than allowed, and how many are; none if all are near."""
    if recorded.shape != now.shape:
        return [f"{name}: recorded with shape {recorded.shape}, now {now.shape}"]
    recorded, now = np.atleast_1d(recorded), np.atleast_1d(now)
    scale = np.abs(recorded) if recorded.ndim == 1 else np.abs(recorded).max(axis=0, keepdims=True)
    far = ~((np.abs(now - recorded) <= tolerance * scale) | (np.isnan(now) & np.isnan(recorded)))
    if not far.any():
        return []
    place = tuple(int(index) for index in np.argwhere(far)[0])
    a, b = float(recorded[place]), float(now[place])
    relative = abs(b - a) / float(np.broadcast_to(scale, far.shape)[place] or np.inf)
    where = f"step {place[0] + 1}" if len(place) == 1 else f"row {place[0] + 1}, column {place[1] + 1}"
    return [
        f"{name}, {where}: recorded {a!r}, now {b!r}, difference {b - a:.3g} "
        f"(relative {relative:.2g}, allowed {tolerance:g}); {int(far.sum())} of {far.size} are beyond it"
    ]


def _with_rows_on_lines(content: dict[str, Any]) -> str:
    """Return indented JSON whose innermost lists of numbers are on one line."""

    def text(value: Any, indent: str) -> str:
        inner = indent + " "
        if isinstance(value, dict) and value:
            items = [f"{inner}{json.dumps(key)}: {text(item, inner)}" for key, item in value.items()]
            return "{\n" + ",\n".join(items) + f"\n{indent}}}"
        if isinstance(value, list) and value and isinstance(value[0], list | str):
            return "[\n" + ",\n".join(f"{inner}{text(item, inner)}" for item in value) + f"\n{indent}]"
        return json.dumps(value)

    return text(content, "")
