"""The training engine: what the trainer asks of whatever holds parameters, gradients and optimizer state.

Subclasses say where those live: on every rank (torch_engine.py), or cut into pieces (fsdp2.py, zero.py). Launching and
launcher settings are Accelerate's; wrapping is done by each library's own entry point, since Accelerate's DeepSpeed
backward makes the optimizer step before all ranks could vote on the gradient, and its FSDP2 needs an accelerator.

What one process holds of a parameter and of the state that trains it: an interval of the flattened parameter.

The one description that single process, DDP, ZeRO and FSDP2 share. Saving writes intervals, restoring reads the
intervals that a process needs, whoever wrote them: that is why a run may go on under another engine or world size.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from scal3r_train.parallel.collectives import total_over_world
from scal3r_train.parallel.process import Process
from scal3r_train.parallel.settings import EngineName, ParallelSettings

if TYPE_CHECKING:
    from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput


MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Shard:
    """An interval of one parameter.

    Attributes:
        name: the parameter's name in the bare model.
        shape: of the whole parameter.
        start: first element of the interval in the flattened parameter.
        weight: [n] flat view of the values that the optimizer updates (fp32; frozen ones in their own dtype).
            Writing into it changes the model only after `Engine.publish_weights`.
        moments: AdamW's two moments, [n] flat views each; empty for frozen parameters.
        is_replicated: whether every process holds this same interval.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    weight: Tensor
    moments: dict[str, Tensor] = field(default_factory=dict)
    is_replicated: bool = False

    @property
    def stop(self) -> int:
        """Element after the interval's last one."""
        return self.start + self.weight.numel()


BuildOptimizer: TypeAlias = Callable[[nn.Module], tuple[torch.optim.Optimizer, LRScheduler]]


class Engine(ABC):
    """One process's view of the run: placement, wrapping, forward, backward, update, and the pieces it holds.

    Attributes:
        name: which engine this is.
        process: who this process is.
        bare_model: the model without wrapper; its parameters may be pieces. Call `forward`, not the model.
        timeout: how long a collective waits for a peer.
        optimizer: torch's AdamW, whose parameter groups carry a `name` and the current learning rate.
    """

    def __init__(
        self, name: EngineName, settings: ParallelSettings, process: Process, accumulation_steps: int
    ) -> None:
        """Note the settings; `prepare` does the work."""
        self.name: EngineName = name
        self.settings = settings
        self.process = process
        self.timeout = timedelta(minutes=settings.timeout_minutes)
        self.accumulation_steps = accumulation_steps
        self.bare_model: Scal3RModel
        self.optimizer: torch.optim.Optimizer
        self._scheduler: LRScheduler
        self._group_of: dict[str, str] = {}  # parameter name -> "memory", "backbone"

    def prepare(self, model: Scal3RModel, build_optimizer: BuildOptimizer, clip_norm: float) -> None:
        """Place and wrap the model, build its optimizer and schedule, allocate the moments.

        Args:
            model: on the CPU, the same values on every rank.
            build_optimizer: given the model with the parameters that the optimizer will update.
            clip_norm: maximum norm of the whole averaged gradient.
        """
        self.bare_model = model
        nn.Module.to(model, self.process.device)  # transformers annotates its own `to` wrongly
        self.clip_norm = clip_norm
        self._place()
        self.optimizer, self._scheduler = build_optimizer(self.bare_model)
        names = {id(parameter): name for name, parameter in self.bare_model.named_parameters()}
        for group in self.optimizer.param_groups:
            part = str(group["name"]).split("_")[0]
            self._group_of |= {names[id(parameter)]: part for parameter in group["params"]}
        self._wrap()

    def _place(self) -> None:  # noqa: B027  most engines build the optimizer on whole parameters
        """Cut the parameters into pieces where the optimizer is to be built on the pieces."""

    @property
    def is_reduced(self) -> bool:
        """Whether the network runs in reduced precision (model/precision.py), forward and backward."""
        return self.settings.precision == "bf16"

    @abstractmethod
    def _wrap(self) -> None:
        """Wrap model and optimizer, and allocate the moments."""

    @abstractmethod
    def forward(
        self, images: Tensor, chunk_mask: Tensor | None, heads: Sequence[str] | None = None
    ) -> Scal3ROutput:
        """Run the model in the recipe's precision; all ranks call this together, in training and evaluation.

        `heads` are those to run, the same on all ranks; None: all.
        """

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Run forward and backward of one micro-step; gradients may be exchanged in the last one only."""
        yield

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss, divided by the number of accumulated micro-steps."""

    @abstractmethod
    def gradients(self) -> Mapping[str, Tensor]:
        """Return this process's intervals of the averaged gradient, after the last micro-step, by parameter name."""

    @property
    @abstractmethod
    def holds_whole_gradients(self) -> bool:
        """Whether every process holds the whole gradient rather than its own interval of it."""

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the averaged gradient per part ("memory", "backbone") and of all ("total").

        All ranks call this and get the same numbers; not finite if any value of the gradient is not.
        """
        parts = sorted(set(self._group_of.values()))
        squares = {part: [] for part in parts}  # type: dict[str, list[Tensor]]
        for name, gradient in self.gradients().items():
            squares[self._group_of[name]].append(gradient)
        sums = torch.stack([_sum_of_squares(squares[part], self.process.device) for part in parts])
        if not self.holds_whole_gradients:
            sums = total_over_world(sums)
        norms = torch.cat([sums, sums.sum(0, keepdim=True)]).sqrt().tolist()
        return dict(zip([*parts, "total"], norms, strict=True))

    def update(self, norm: float) -> None:
        """Clip the gradient, whose whole norm is `norm`, and let the optimizer and the schedule make one step."""
        self._apply(norm)
        self._scheduler.step()

    @abstractmethod
    def _apply(self, norm: float) -> None:
        """Clip, step, drop the gradients."""

    def skip_update(self) -> None:
        """Drop the gradients of this step; the schedule still advances."""
        self._drop_gradients()
        with warnings.catch_warnings():  # torch asks why no update came before the schedule's first step
            warnings.simplefilter("ignore", UserWarning)
            self._scheduler.step()

    @abstractmethod
    def _drop_gradients(self) -> None:
        """Forget the gradients without a trace in parameters and moments."""

    @property
    def learning_rates(self) -> dict[str, float]:
        """Current learning rate per parameter group."""
        return {str(group["name"]): float(group["lr"]) for group in self.optimizer.param_groups}

    @abstractmethod
    def shards(self) -> list[Shard]:
        """Return views of everything that this process holds, frozen parameters included, in a stable order."""

    def restored(self, step: int, num_updates: int) -> None:
        """Take over what was written into `shards()`: all ranks call this.

        Args:
            step: optimizer steps of the run so far, skipped ones included; the schedule continues there.
            num_updates: updates that AdamW has made; its bias correction continues there.
        """
        self._publish_weights()
        for state in self.optimizer.state.values():
            state["step"] = torch.tensor(float(num_updates))
        # Learning rates are a function of the step alone, so a longer or other schedule takes effect at once.
        self._scheduler.last_epoch = step - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._scheduler.step()

    def _publish_weights(self) -> None:  # noqa: B027  where the shards are views of the model there is nothing to do
        """Let the model see what was written into the shards' weights."""

    def close(self) -> None:  # noqa: B027  most engines hold nothing
        """Release what the wrapper holds; the process group is not this class's."""


def allocate_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Give AdamW the zero moments that it would make in its first step, so that they can be saved and restored.

    `parameters` are the tensors that the optimizer steps on: the model's, or an engine's flat partitions of them.
    """
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.tensor(0.0),
            **{key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS},
        }


def _sum_of_squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return the sum of squares of all values, a float64 scalar; 0 for no tensors."""
    filled = [tensor for tensor in tensors if tensor.numel() > 0]
    if not filled:
        return torch.zeros((), dtype=torch.float64, device=device)
    norms = torch.stack([norm.to(device) for norm in torch._foreach_norm(filled)])
    return norms.double().square().sum()
