"""This process among its peers: rank, world size, device; start and end.

Accelerate's `PartialState` joins the peers, for training and for everything else that runs on several processes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from scal3r_train.parallel.environment import kept_variables
from scal3r_train.parallel.meeting import meeting_peers

PROCESS_TIMEOUT = timedelta(minutes=30)
# Control messages and what lies in host memory anyway travel by gloo, tensors of the device by NCCL.
CUDA_BACKEND = "cpu:gloo,cuda:nccl"


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


def launched_rank() -> int:
    """Return this process's rank as its launcher says, before it has joined its peers; 0 when started alone."""
    return int(os.environ["RANK"]) if is_launched() else 0


@contextmanager
def joined_processes(timeout: timedelta = PROCESS_TIMEOUT) -> Iterator[Process]:
    """Join the peers that a launcher started, if any, and leave them at the end.

    Under plain `python` nothing is started. A group that already exists is used and left alone. `timeout`: how long
    to wait for the peers to come, and later how long a collective waits for one, before it fails. After an error in
    the body the process group is not closed: that may wait for one that is gone, and this process is about to end.

    Raises:
        UserError: the peers do not come.
    """
    from accelerate import PartialState  # noqa: PLC0415  most commands that import this module join nobody

    owns_group = is_launched() and not dist.is_initialized()
    owns_state = not PartialState._shared_state
    if is_launched() and "SLURM_LOCALID" in os.environ:  # plain srun names the place on the node otherwise
        os.environ.setdefault("LOCAL_RANK", os.environ["SLURM_LOCALID"])
    if owns_state:
        # torch makes the process group, also where DeepSpeed will be the engine.
        hidden = kept_variables(["ACCELERATE_USE_DEEPSPEED"], hidden=True)
        with meeting_peers(timeout) if owns_group else nullcontext(), hidden:
            PartialState(cpu=not torch.cuda.is_available(), **_group_options(timeout))
    yield current_process()
    if owns_group:
        dist.destroy_process_group()
    if owns_state:
        PartialState._reset_state()


def _group_options(timeout: timedelta) -> dict[str, Any]:
    if not is_launched():
        return {}
    return {"backend": CUDA_BACKEND if torch.cuda.is_available() else "gloo", "timeout": timeout}
