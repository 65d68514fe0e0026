"""This process among its peers: rank, world size, device; start and end."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from scal3r_train.parallel.meeting import meeting_peers

PROCESS_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Process:
    """Who this process is.

    Attributes:
        rank, world_size: position among the peers; 0 of 1 when started alone.
        device: where its model lives.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0


def local_device() -> torch.device:
    """Return this process's device: the CUDA device of its local rank, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return what computes, for people: the model of the GPU or the kind of processor, and torch's version."""
    host = f"{platform.machine()} CPU, {torch.get_num_threads()} threads a process"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else host
    return f"{name}, torch {torch.__version__}"


def current_process() -> Process:
    """Return who this process is now."""
    if dist.is_available() and dist.is_initialized():
        return Process(dist.get_rank(), dist.get_world_size(), local_device())
    return Process(0, 1, local_device())


def is_launched() -> bool:
    """Return whether torchrun or `accelerate launch` started this process with its peers."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined_processes(timeout: timedelta = PROCESS_TIMEOUT) -> Iterator[Process]:
    """Join the peers that a launcher started, if any, and leave them at the end.

    Under plain `python` nothing is started. A group that already exists is used and left alone. `timeout`: how long
    a collective waits for a peer before it fails. After an error in the body the process group is not closed: that
    may wait for one that is gone, and this process is about to end.

    Raises:
        UserError: the peers do not come.
    """
    owns_group = is_launched() and not dist.is_initialized()
    if owns_group:
        device = local_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        with meeting_peers(timeout):
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    yield current_process()
    if owns_group:
        dist.destroy_process_group()
