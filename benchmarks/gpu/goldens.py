"""The recorded tensors of the network, recomputed on the device in float32 without TensorFloat-32.

Their tolerances are those of one CPU against another; a device that adds in another order may lie beyond some of them.
So this says how far, and judges nothing.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import replace

import torch

from benchmarks.gpu.part import Day
from benchmarks.gpu.precision import float32_products
from tests.golden.checks import CHECKS
from tests.golden.reader import Golden, read_manifest

OF_NETWORK = "check_model"  # the other kinds compute on the host


def measure(day: Day) -> None:
    """Record one row for each recorded computation of the network."""
    if not (day.goldens / "manifest.json").is_file():
        day.record(
            golden="-", note=f"no goldens in {day.goldens}: carry the folder and name it with --goldens"
        )
        return
    for name, entry in read_manifest(day.goldens).items():
        if CHECKS.get(entry["config"]["kind"]) != OF_NETWORK:
            continue
        try:
            day.record(golden=name, **compared(Golden.load(day.goldens, name), torch.device(day.device)))
        except (RuntimeError, AssertionError) as error:  # the others may still run
            day.record(golden=name, note=str(error).strip().splitlines()[0][:200])


def compared(golden: Golden, device: torch.device) -> dict[str, float | str]:
    """Return how many tensors there are, how many lie beyond their tolerance, and the one that lies furthest."""
    module = importlib.import_module(f"tests.golden.{OF_NETWORK}")
    check = vars(module)[f"check_{golden.config['kind']}"]
    on_device = replace(golden, tensors={key: tensor.to(device) for key, tensor in golden.tensors.items()})
    with float32_products("float32"):
        recomputed = check(on_device)
    excess = {key: golden.excess(key, value) for key, value in recomputed.items() if key in golden.tensors}
    worst = max(excess, key=excess.__getitem__)
    furthest = excess[worst]
    return {
        "tensors": len(excess),
        "beyond": sum(value > 1 for value in excess.values()),
        "worst": worst,
        "of_tolerance": round(furthest, 2) if math.isfinite(furthest) else "not comparable",
    }
