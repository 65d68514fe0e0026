"""Which engine a run gets."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch.distributed as dist

from scal3r_train.config import UserError
from scal3r_train.parallel.accelerator import build_accelerator
from scal3r_train.parallel.launch import launched_engine
from scal3r_train.parallel.process import Process
from scal3r_train.parallel.settings import EngineName, ParallelSettings

if TYPE_CHECKING:
    from scal3r_train.parallel.engine import Engine


def engine_name(settings: ParallelSettings, process: Process) -> EngineName:
    """Return the engine of a run: the recipe's or the launcher's, else DDP or, for one process, none.

    Raises:
        UserError: recipe and launcher contradict each other, or the engine needs peers or packages that are absent.
    """
    launched = launched_engine()
    plain: EngineName = "ddp" if process.world_size > 1 else "single"
    if settings.engine == "launcher":
        return launched or plain
    if launched not in (None, settings.engine):
        raise UserError(
            f"parallel.engine is {settings.engine} and the accelerate config asks for {launched}; leave "
            "parallel.engine=launcher or use the config of that engine"
        )
    if settings.engine in ("single", "ddp") and settings.engine != plain:
        raise UserError(
            f"parallel.engine is {settings.engine} and {process.world_size} processes were started; use {plain}"
        )
    return settings.engine


def build_engine(settings: ParallelSettings, process: Process, accumulation_steps: int) -> Engine:
    """Return the run's engine and in it the run's Accelerator, not yet prepared; `Engine.close` ends both.

    Raises:
        UserError: as `engine_name`.
    """
    name = engine_name(settings, process)
    if settings.gathered_dtype != "fp32" and name != "fsdp2":
        raise UserError(
            f"parallel.gathered_dtype: {settings.gathered_dtype} is for fsdp2, and the engine is {name}: DeepSpeed "
            "would sum gradients in it as well"
        )
    # Imported here: each engine brings its own library, and DeepSpeed alone takes seconds.
    if name in ("single", "ddp"):
        from scal3r_train.parallel.torch_engine import ReplicatedEngine  # noqa: PLC0415

        accelerator = build_accelerator(name, accumulation_steps)
        return ReplicatedEngine(name, settings, process, accelerator)
    if not dist.is_initialized():
        raise UserError(f"engine {name} shards over processes: start them with torchrun or accelerate launch")
    if name == "fsdp2":
        from scal3r_train.parallel.fsdp2 import Fsdp2Engine  # noqa: PLC0415

        accelerator = build_accelerator(name, accumulation_steps)
        return Fsdp2Engine(name, settings, process, accelerator)
    if process.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed prints that it found no other
    try:
        from scal3r_train.parallel.zero import ZeroEngine, zero_config  # noqa: PLC0415
    except ImportError as error:
        raise UserError(
            f"engine {name} needs DeepSpeed: pip install 'scal3r_train[train]' ({error})"
        ) from None
    config = zero_config(name, settings.precision, accumulation_steps)
    return ZeroEngine(name, settings, process, build_accelerator(name, accumulation_steps, config))
