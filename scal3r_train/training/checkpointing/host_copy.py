"""What a rank saves, as it was at one moment: a copy in host memory, written to files while the training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scal3r_train.config import permit_as_new
from scal3r_train.parallel.engine import Shard
from scal3r_train.training.checkpointing.checkpoint_files import EMA, WEIGHT, Piece, sync_to_disk

# Files and the buffers behind them. Page-locked memory comes in powers of two: this is one of them.
MAX_FILE_BYTES = 1 << 31
ALIGNMENT = 64  # bytes between the beginnings of tensors in a buffer are a multiple of this


class HostCopy:
    """A copy of this rank's part of the state; one buffer a file, kept for the next save.

    On CUDA the buffers are page-locked and a stream of its own fills them: neither the host nor the device waits. Only
    the next update does, on the device, since it changes what is being copied.
    """

    def __init__(self, device: torch.device, optimizer: torch.optim.Optimizer) -> None:
        """Allocate nothing yet; `optimizer` is the one whose steps change what is copied."""
        self._is_cuda = device.type == "cuda"
        self._buffers: list[Tensor] = []
        self._files: dict[str, dict[str, Tensor]] = {}
        self._copied: torch.cuda.Event | None = None
        if self._is_cuda:
            self._stream = torch.cuda.Stream(device)
            optimizer.register_step_pre_hook(self._hold_update)

    def take(self, rank: int, shards: Iterable[Shard], averages: Mapping[str, Tensor]) -> list[Piece]:
        """Copy what this rank writes and return what will be where; what was taken before must have been written.

        Args:
            rank: replicated shards are written by rank 0 alone.
            shards: what the process holds.
            averages: moving averages by parameter name, flat; may be empty.
        """
        files, pieces = _layout(rank, shards, averages)
        if self._is_cuda:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                self._copy(files)
                self._copied = self._stream.record_event()
        else:
            self._copy(files)
        return pieces

    def write(self, folder: Path) -> None:
        """Write the copy into files of an existing folder; they are on the disk itself when this returns.

        Raises:
            OSError, SafetensorError: the files cannot be written.
        """
        if self._copied is not None:
            self._copied.synchronize()
        for name, tensors in self._files.items():
            save_file(tensors, folder / name)
            permit_as_new(folder / name)
            sync_to_disk([folder / name])

    @torch.no_grad()
    def _copy(self, files: dict[str, dict[str, Tensor]]) -> None:
        self._files = {}
        for place, (name, tensors) in enumerate(files.items()):
            sizes = [_aligned(value.numel() * value.element_size()) for value in tensors.values()]
            buffer = self._buffer(place, sum(sizes))
            copies = self._files[name] = {}
            for (key, value), part in zip(tensors.items(), buffer.split(sizes), strict=True):
                copy = part[: value.numel() * value.element_size()].view(value.dtype)
                copies[key] = copy.copy_(value, non_blocking=True)

    def _buffer(self, place: int, num_bytes: int) -> Tensor:
        """Return the buffer of a file; new memory only where the last save's does not fit."""
        if place == len(self._buffers):
            self._buffers.append(torch.empty(0, dtype=torch.uint8))
        if self._buffers[place].numel() != num_bytes:
            self._buffers[place] = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=self._is_cuda)
        return self._buffers[place]

    def _hold_update(self, *_: Any) -> None:
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)


def _layout(
    rank: int, shards: Iterable[Shard], averages: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], list[Piece]]:
    """Return the tensors of each file, and what is where; nothing is copied."""
    files: dict[str, dict[str, Tensor]] = {}
    pieces: list[Piece] = []
    name, num_bytes = "", 0
    for shard in shards:
        if (shard.is_replicated and rank != 0) or shard.weight.numel() == 0:
            continue
        values = {WEIGHT: shard.weight, **shard.moments}
        if shard.name in averages:
            values[EMA] = averages[shard.name]
        size = sum(_aligned(value.numel() * value.element_size()) for value in values.values())
        if not files or num_bytes + size > MAX_FILE_BYTES:
            name, num_bytes = f"rank_{rank:05d}_{len(files):03d}.safetensors", 0
            files[name] = {}
        files[name] |= {f"{kind}/{shard.name}": value for kind, value in values.items()}
        num_bytes += size
        pieces.append(Piece(shard.name, shard.start, shard.stop, tuple(values), name))
    return files, pieces


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
