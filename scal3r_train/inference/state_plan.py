"""Which store the states of a run's chunks fit into, decided before the run from what is free."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from scal3r_train.inference.state_store import StoreKind

GIB, MIB = 2**30, 2**20
DEVICE_SHARE, HOST_SHARE, DISK_SHARE = 0.5, 0.5, 0.8
STORES: tuple[StoreKind, ...] = ("device", "host", "disk", "recompute")


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that are free for this process; `device` equals `host` where the host computes."""

    device: int
    host: int
    disk: int


@dataclass(frozen=True)
class StatePlan:
    """Where states are kept.

    Attributes:
        store: the chosen store.
        num_chunks: of this process.
        bytes_per_chunk: most that one state takes.
        limit_bytes: most that the store may hold on this process; 0 for "recompute".
        reason: why this store.
    """

    store: StoreKind
    num_chunks: int
    bytes_per_chunk: int
    limit_bytes: int
    reason: str

    def line(self) -> str:
        """Return what the user reads before the run."""
        together = 0 if self.store == "recompute" else self.num_chunks * self.bytes_per_chunk
        return (
            f"states of {self.num_chunks} chunks a process: {self.store} ({self.reason}); "
            f"{self.bytes_per_chunk / MIB:.3g} MiB each, {together / MIB:.4g} MiB kept"
        )

    def as_dict(self) -> dict[str, Any]:
        """Field names and values."""
        return asdict(self)


def plan_states(
    wanted: StoreKind | Literal["auto"],
    num_chunks: int,
    bytes_per_chunk: int,
    free: FreeMemory,
    limit_gib: float | None = None,
) -> StatePlan:
    """Return the first store, nearest to the device first, that holds the states of all of a process's chunks.

    Args:
        wanted: "auto", or the store that the user asks for.
        num_chunks: chunks of the process that has most.
        bytes_per_chunk: size of a state.
        free: of the process that has least.
        limit_gib: the user's bound on states in memory (device or host); None: half of what is free.
    """
    total = num_chunks * bytes_per_chunk
    memory = {"device": int(free.device * DEVICE_SHARE), "host": int(free.host * HOST_SHARE)}
    if limit_gib is not None:
        memory = {name: min(free_bytes, int(limit_gib * GIB)) for name, free_bytes in memory.items()}
    limits: dict[StoreKind, int] = {
        "device": memory["device"],
        "host": memory["host"],
        "disk": int(free.disk * DISK_SHARE),
        "recompute": 0,
    }
    if wanted != "auto":
        return StatePlan(
            wanted, num_chunks, bytes_per_chunk, 0 if wanted == "recompute" else total, "as asked"
        )
    for store in STORES[:-1]:
        if total <= limits[store]:
            reason = f"fits into {limits[store] / GIB:.3g} GiB"
            return StatePlan(store, num_chunks, bytes_per_chunk, total, reason)
    return StatePlan("recompute", num_chunks, bytes_per_chunk, 0, "nothing holds them")


def free_memory(device: torch.device, folder: Path) -> FreeMemory:
    """Return what is free now on the device, on the host, and on the disk of an existing folder."""
    host = psutil.virtual_memory().available
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host
    return FreeMemory(on_device, host, shutil.disk_usage(folder).free)
