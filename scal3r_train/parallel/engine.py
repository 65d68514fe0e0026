"""The training engine: Accelerate behind the few operations the trainer needs.

What differs between single process, DDP and (later) sharding engines lives here and nowhere else.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from pydantic import Field
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from transformers.utils import logging

from scal3r_train.config import StrictModel
from scal3r_train.parallel.process import Process, local_device


class ParallelSettings(StrictModel):
    """The `parallel` section of a training recipe; the engine itself is chosen by how the run is launched."""

    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="bf16 runs encoder and attention in autocast; memories and heads stay fp32",
    )


class Engine:
    """One process's view of the run: placement, wrapping, backward, clipping, state on disk."""

    def __init__(self, settings: ParallelSettings, accumulation_steps: int) -> None:
        """Join the peers that torchrun or `accelerate launch` started."""
        # The gradients of 1x1 convolutions have other strides than DDP's buckets: nothing a user could mend.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        logging.disable_progress_bar()  # transformers shows one for every checkpoint it writes
        self._accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if settings.precision == "bf16" else "no",
            gradient_accumulation_steps=accumulation_steps,
            step_scheduler_with_optimizer=False,
        )
        self.process = Process(
            self._accelerator.process_index, self._accelerator.num_processes, local_device()
        )
        self.model: nn.Module
        self.optimizer: torch.optim.Optimizer

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> None:
        """Place and wrap what is trained."""
        # Prepared, not registered for checkpointing: registered objects are read back as arbitrary pickles.
        self.model, self.optimizer, self._scheduler = self._accelerator.prepare(model, optimizer, scheduler)

    @property
    def bare_model(self) -> nn.Module:
        """The model without the engine's wrapper."""
        return self._accelerator.unwrap_model(self.model)

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Run forward and backward of one micro-step; gradients are exchanged in the last one only."""
        if is_last:
            yield
        else:
            with self._accelerator.no_sync(self.model):
                yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss, divided by the number of accumulated micro-steps."""
        self._accelerator.backward(loss)

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the whole gradient of each part, memory and backbone, before clipping.

        All ranks call this between the last backward and `clip_gradients`.
        """
        parts: dict[str, list[Tensor]] = {}
        for group in self.optimizer.param_groups:
            gradients = [parameter.grad for parameter in group["params"] if parameter.grad is not None]
            parts.setdefault(str(group["name"]).split("_")[0], []).extend(gradients)
        return {part: float(nn.utils.get_total_norm(gradients)) for part, gradients in parts.items()}

    def clip_gradients(self, max_norm: float) -> float:
        """Scale the whole gradient to at most `max_norm` and return its norm before."""
        return float(self._accelerator.clip_grad_norm_(self.model.parameters(), max_norm))

    def update(self) -> None:
        """Let the optimizer and the schedule make one step."""
        self.optimizer.step()
        self._scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def skip_update(self) -> None:
        """Drop the gradients of this step; the schedule still advances."""
        self.optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():  # torch asks why no update came before the schedule's first step
            warnings.simplefilter("ignore", UserWarning)
            self._scheduler.step()

    @property
    def learning_rates(self) -> dict[str, float]:
        """Current learning rate per parameter group."""
        return {str(group["name"]): float(group["lr"]) for group in self.optimizer.param_groups}

    def save_state(self, folder: Path) -> None:
        """Write weights, optimizer, schedule and every rank's random state into `folder`; all ranks call this."""
        self._accelerator.save_state(str(folder), safe_serialization=True)
        self._accelerator.wait_for_everyone()

    def load_state(self, folder: Path) -> None:
        """Restore what `save_state` wrote; all ranks call this."""
        self._accelerator.load_state(str(folder))

    @property
    def name(self) -> str:
        """How the processes share the training."""
        return "ddp" if self.process.world_size > 1 else "single"

    def save_pretrained(self, folder: Path, max_shard_size: str) -> None:
        """Write the bare model as a `save_pretrained` folder from the main process; all ranks call this."""
        state = self._accelerator.get_state_dict(self.model)
        self.bare_model.save_pretrained(  # type: ignore[operator]
            folder,
            state_dict=state,
            is_main_process=self.process.is_main,
            save_function=self._accelerator.save,
            max_shard_size=max_shard_size,
        )
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the peers."""
        self._accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
