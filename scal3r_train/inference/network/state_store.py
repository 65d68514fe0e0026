"""Where the states of chunks wait between two segments (device, host, disk or nowhere), and which of these has room.

A state that is not there is computed again from the images. So a store may forget: "recompute" keeps nothing, and a
run that was killed goes on with whatever its disk store still holds. Moves are counted, so that what a schedule costs
can be measured. Which store a run uses is decided before it, from what is free (`plan_states`).
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil
import torch
from safetensors import SafetensorError, safe_open

from scal3r_train.inference.chunking import StoreKind
from scal3r_train.inference.network.chunk_runner import ChunkState, StateBytes
from scal3r_train.inference.tensor_file import save_tensors


class StateStore(Protocol):
    """Keeps at most one state of every chunk.

    Attributes:
        peak_bytes: most bytes held at once (on disk for "disk").
        moved_bytes: bytes that went to the store or came back from it over a bus or a file.
    """

    peak_bytes: int
    moved_bytes: int

    def put(self, chunk: int, state: ChunkState) -> None:
        """Keep a state in place of the chunk's older one."""

    def prefetch(self, chunk: int) -> None:
        """Start to bring a state back to the device, if that can be done aside."""

    def take(self, chunk: int) -> ChunkState | None:
        """Return a chunk's state on the device, or None when it is not here."""

    def drop(self, chunk: int) -> None:
        """Forget a chunk."""


class _StoreSizes:
    """Counts what a store holds and moves."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.moved_bytes = 0
        self._sizes: dict[int, int] = {}

    def _hold(self, chunk: int, num_bytes: int) -> None:
        self._sizes[chunk] = num_bytes
        self.peak_bytes = max(self.peak_bytes, sum(self._sizes.values()))


class RecomputeStore(_StoreSizes):
    """Keeps nothing."""

    def put(self, chunk: int, state: ChunkState) -> None:
        """Forget the state at once."""

    def prefetch(self, chunk: int) -> None:
        """Do nothing."""

    def take(self, chunk: int) -> ChunkState | None:
        """Return None."""
        return None

    def drop(self, chunk: int) -> None:
        """Do nothing."""


class DeviceStore(_StoreSizes):
    """Keeps states where they were made."""

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[int, ChunkState] = {}

    def put(self, chunk: int, state: ChunkState) -> None:
        """Keep the state as it is."""
        self._states[chunk] = state
        self._hold(chunk, state.num_bytes)

    def prefetch(self, chunk: int) -> None:
        """Do nothing: it is there."""

    def take(self, chunk: int) -> ChunkState | None:
        """Return the state."""
        return self._states.get(chunk)

    def drop(self, chunk: int) -> None:
        """Forget a chunk."""
        self._states.pop(chunk, None)
        self._sizes.pop(chunk, None)


class HostStore(_StoreSizes):
    """Keeps states in pinned host memory; copies run beside the computation, each direction in a stream of its own.

    A bus carries both directions at once, and a state on its way back does not queue behind one that leaves.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._outward, self._inward = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._states: dict[
            int, tuple[ChunkState, torch.cuda.Event]
        ] = {}  # with the end of its copy to the host
        self._arriving: dict[int, tuple[ChunkState, torch.cuda.Event]] = {}

    def put(self, chunk: int, state: ChunkState) -> None:
        """Start the copy to the host; the device's memory is free for others once it is done."""
        self._outward.wait_stream(torch.cuda.current_stream(self._device))
        tensors = {}
        with torch.cuda.stream(self._outward):
            for name, tensor in state.tensors.items():
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                host.copy_(tensor, non_blocking=True)
                tensor.record_stream(self._outward)
                tensors[name] = host
            copied = torch.cuda.Event()
            copied.record(self._outward)
        self._states[chunk] = state.with_tensors(tensors), copied
        self.moved_bytes += state.num_bytes
        self._hold(chunk, state.num_bytes)

    def prefetch(self, chunk: int) -> None:
        """Start the copy back."""
        if chunk not in self._states or chunk in self._arriving:
            return
        state, copied = self._states[chunk]
        self._inward.wait_event(copied)
        with torch.cuda.stream(self._inward):
            tensors = {
                name: tensor.to(self._device, non_blocking=True) for name, tensor in state.tensors.items()
            }
            event = torch.cuda.Event()
            event.record(self._inward)
        self.moved_bytes += state.num_bytes
        self._arriving[chunk] = state.with_tensors(tensors), event

    def take(self, chunk: int) -> ChunkState | None:
        """Return the state once its copy has arrived."""
        self.prefetch(chunk)
        if chunk not in self._arriving:
            return None
        state, event = self._arriving.pop(chunk)
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(event)
        for tensor in state.tensors.values():
            tensor.record_stream(stream)
        return state

    def drop(self, chunk: int) -> None:
        """Forget a chunk."""
        self._states.pop(chunk, None)
        self._arriving.pop(chunk, None)
        self._sizes.pop(chunk, None)


class DiskStore(_StoreSizes):
    """Keeps one file a chunk; what a killed run has left there is used again."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__()
        self._folder = folder
        self._device = device
        folder.mkdir(parents=True, exist_ok=True)
        files = [path for path in folder.glob("*.safetensors") if path.stem.isdecimal()]
        self._sizes = {int(path.stem): path.stat().st_size for path in files}

    def put(self, chunk: int, state: ChunkState) -> None:
        """Write the state beside the older one, then rename.

        Raises:
            UserError: the disk is full or the folder is gone.
        """
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}
        metadata = {"segments_done": str(state.segments_done), "image_hw": "{} {}".format(*state.image_hw)}
        save_tensors(
            self._path(chunk), tensors, metadata, "chunk states (schedule.state = recompute needs none)"
        )
        self.moved_bytes += state.num_bytes
        self._hold(chunk, state.num_bytes)

    def prefetch(self, chunk: int) -> None:
        """Do nothing: the operating system reads ahead."""

    def take(self, chunk: int) -> ChunkState | None:
        """Return the state; None when there is no file, or it is damaged or of another version."""
        try:
            with safe_open(self._path(chunk), "pt") as file:
                metadata = file.metadata()
                segments_done = int(metadata["segments_done"])
                height, width = map(int, metadata["image_hw"].split())
                tensors = {name: file.get_tensor(name).to(self._device) for name in file.keys()}
        except (OSError, SafetensorError, KeyError):
            return None
        state = ChunkState(segments_done, tensors, (height, width))
        self.moved_bytes += state.num_bytes
        return state

    def drop(self, chunk: int) -> None:
        """Remove the file."""
        self._path(chunk).unlink(missing_ok=True)
        self._sizes.pop(chunk, None)

    def _path(self, chunk: int) -> Path:
        return self._folder / f"{chunk:06d}.safetensors"


def open_store(kind: StoreKind, device: torch.device, folder: Path) -> StateStore:
    """Return the store of a kind; on a CPU the host is the device."""
    if kind == "disk":
        return DiskStore(folder, device)
    if kind == "recompute":
        return RecomputeStore()
    return HostStore(device) if kind == "host" and device.type == "cuda" else DeviceStore()


GIB, MIB = 2**30, 2**20
DEVICE_SHARE, HOST_SHARE, DISK_SHARE = 0.5, 0.5, 0.8  # of what is free, at most
STORES: tuple[StoreKind, ...] = ("device", "host", "disk", "recompute")


@dataclass(frozen=True)
class FreeMemory:
    """Bytes that are free for this process, its share of what processes have in common.

    Attributes:
        device: of its device; equals `host` where the host computes.
        host: of the machine's memory, which the processes there share.
        disk: of the disk, which all processes share.
    """

    device: int
    host: int
    disk: int


@dataclass(frozen=True)
class StatePlan:
    """Where states are kept.

    Attributes:
        store: the chosen store.
        num_chunks: of this process.
        bytes_per_chunk: most that one state takes in the store.
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
        together = self.limit_bytes
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
    size: StateBytes,
    free: FreeMemory,
    limit_gib: float | None = None,
) -> StatePlan:
    """Return the first store, nearest to the device first, that holds the states of all of a process's chunks.

    Args:
        wanted: "auto", or the store that the user asks for.
        num_chunks: chunks of the process that has most.
        size: of a state.
        free: of the process that has least.
        limit_gib: the user's bound on states in memory (device or host); None: half of what is free.
    """
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
        total = _total_bytes(wanted, num_chunks, size)
        return StatePlan(wanted, num_chunks, _bytes_in(wanted, size), total, "as asked")
    for store in STORES[:-1]:
        total = _total_bytes(store, num_chunks, size)
        if total <= limits[store]:
            reason = f"fits into {limits[store] / GIB:.3g} GiB"
            return StatePlan(store, num_chunks, _bytes_in(store, size), total, reason)
    return StatePlan("recompute", num_chunks, size.plain, 0, "nothing holds them")


def _bytes_in(store: StoreKind, size: StateBytes) -> int:
    return size.pinned if store == "host" else size.plain


def _total_bytes(store: StoreKind, num_chunks: int, size: StateBytes) -> int:
    """Return what a store holds at most: the pinned one has a chunk's new state beside its old one for a moment."""
    if store == "recompute":
        return 0
    return (num_chunks + (store == "host")) * _bytes_in(store, size)


def free_memory(device: torch.device, folder: Path, local_processes: int, processes: int) -> FreeMemory:
    """Return this process's share of what is free now on device, host, and the disk of an existing folder.

    Args:
        device: this process's own.
        folder: on a disk that all processes write to.
        local_processes: processes on this machine.
        processes: all of them.
    """
    host = psutil.virtual_memory().available // local_processes
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host
    return FreeMemory(on_device, host, shutil.disk_usage(folder).free // processes)
