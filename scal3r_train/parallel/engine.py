"""The training engine: what the trainer asks of whatever holds parameters, gradients and optimizer state.

Subclasses say where those live: on every rank (torch_engine.py), or cut into pieces (fsdp2.py, zero.py). The run's
`Accelerator` wraps the model and counts micro-steps; the vote, the pieces and the norms are here (docs/engines.md).

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

from scal3r_train.parallel.accelerator import release_accelerator
from scal3r_train.parallel.collectives import total_over_world
from scal3r_train.parallel.process import Process
from scal3r_train.parallel.settings import EngineName, ParallelSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

    from scal3r_train.model.modeling_scal3r import Scal3RModel, Scal3ROutput
    from scal3r_train.parallel.weights import Weights


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
        accelerator: the run's, told which engine this is.
        bare_model: the model without wrapper; its parameters may be pieces. Call `forward`, not the model.
        timeout: how long a collective waits for a peer.
        optimizer: torch's AdamW, whose parameter groups carry a `name` and the current learning rate.
    """

    def __init__(
        self, name: EngineName, settings: ParallelSettings, process: Process, accelerator: Accelerator
    ) -> None:
        """Note the settings; `prepare` does the work."""
        self.name: EngineName = name
        self.settings = settings
        self.process = process
        self.accelerator = accelerator
        self.timeout = timedelta(minutes=settings.timeout_minutes)
        self.bare_model: Scal3RModel
        self.optimizer: torch.optim.Optimizer
        self._scheduler: LRScheduler
        self._group_of: dict[str, str] = {}  # parameter name -> "memory", "backbone"

    def prepare(
        self,
        model: Scal3RModel,
        build_optimizer: BuildOptimizer,
        clip_norm: float,
        weights: Weights | None = None,
    ) -> None:
        """Place and wrap the model, build its optimizer and schedule, allocate the moments.

        Args:
            model: on the CPU with the same values on every rank, or with parameters without storage.
            build_optimizer: given the model with the parameters that the optimizer will update.
            clip_norm: maximum norm of the whole averaged gradient.
            weights: the values of a model without storage; each process reads what it will hold.
        """
        self.bare_model = model
        if weights is None:
            nn.Module.to(model, self.process.device)  # transformers annotates its own `to` wrongly
        self.clip_norm = clip_norm
        self._place(weights)
        self.optimizer, self._scheduler = build_optimizer(self.bare_model)
        names = {id(parameter): name for name, parameter in self.bare_model.named_parameters()}
        for group in self.optimizer.param_groups:
            part = str(group["name"]).split("_")[0]
            self._group_of |= {names[id(parameter)]: part for parameter in group["params"]}
        self._wrap()

    def _place(self, weights: Weights | None) -> None:
        """Bring the model to the device: give parameters without storage theirs, cut what is held in pieces."""
        if weights is not None:
            materialize(self.bare_model, self.process.device, weights)

    @property
    def is_reduced(self) -> bool:
        """Whether the network runs in reduced precision (model/precision.py), forward and backward."""
        return self.settings.precision == "bf16"

    @abstractmethod
    def _wrap(self) -> None:
        """Wrap model and optimizer, and allocate the moments."""

    @abstractmethod
    def forward(
        self,
        images: Tensor,
        chunk_mask: Tensor | None,
        heads: Sequence[str] | None = None,
        fov: Tensor | None = None,
    ) -> Scal3ROutput:
        """Run the model in the recipe's precision; all ranks call this together, in training and evaluation.

        `heads` are those to run, the same on all ranks; None: all. `fov` are the known fields of view (Scal3RModel).
        """

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Run forward and backward of one micro-step; gradients may be exchanged in the last one only."""
        with self.accelerator.accumulate():
            assert self.accelerator.sync_gradients == is_last
            yield

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss, divided by the number of accumulated micro-steps."""

    @abstractmethod
    def gradients(self) -> Mapping[str, Tensor]:
        """Return this process's intervals of the averaged gradient, after the last micro-step, by parameter name."""

    @abstractmethod
    def holds_whole_gradient(self, name: str) -> bool:
        """Return whether every process holds the whole gradient of a parameter rather than its interval of it."""

    def gradient_norms(self) -> dict[str, float]:
        """Return the norm of the averaged gradient per part ("memory", "backbone") and of all ("total").

        All ranks call this and get the same numbers; not finite if any value of the gradient is not.
        """
        parts = sorted(set(self._group_of.values()))
        whole: dict[str, list[Tensor]] = {part: [] for part in parts}
        pieces: dict[str, list[Tensor]] = {part: [] for part in parts}
        for name, gradient in self.gradients().items():
            (whole if self.holds_whole_gradient(name) else pieces)[self._group_of[name]].append(gradient)
        device = self.process.device
        sums = torch.stack([_sum_of_squares(whole[part], device) for part in parts])
        if not all(self.holds_whole_gradient(name) for name in self._group_of):
            sums += total_over_world(torch.stack([_sum_of_squares(pieces[part], device) for part in parts]))
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
            state["step"].fill_(num_updates)
        # Learning rates are a function of the step alone, so a longer or other schedule takes effect at once.
        self._scheduler.last_epoch = step - 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self._scheduler.step()

    def _publish_weights(self) -> None:  # noqa: B027  where the shards are views of the model there is nothing to do
        """Let the model see what was written into the shards' weights."""

    def close(self) -> None:
        """Release what the wrapper holds; the process group is not this class's."""
        release_accelerator()


def allocate_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Give AdamW the zero moments that it would make in its first step, so that they can be saved and restored.

    Where everything lies on a GPU, an update becomes one fused kernel, which wants the step count there too.

    Args:
        optimizer: of the run.
        parameters: the tensors that it steps on: the model's, or an engine's flat partitions of them.
    """
    parameters = list(parameters)
    is_fused = all(parameter.device.type == "cuda" for parameter in parameters)
    for group in optimizer.param_groups:
        group["fused"] = is_fused or None
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device if is_fused else "cpu"),
            **{key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS},
        }


def stepped_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the tensors of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def materialize(model: nn.Module, device: torch.device, weights: Weights) -> None:
    """Give parameters without storage theirs on the device, with their values; buffers are moved there."""
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            values = torch.empty_like(parameter, device=device)
            weights.read_into(f"{prefix}.{leaf}" if prefix else leaf, 0, values.detach().view(-1))
            setattr(module, leaf, nn.Parameter(values, requires_grad=parameter.requires_grad))
        for leaf, buffer in module.named_buffers(recurse=False):
            setattr(module, leaf, buffer.to(device))


def _sum_of_squares(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return the sum of squares of all values, a float64 scalar; 0 for no tensors."""
    filled = [tensor for tensor in tensors if tensor.numel() > 0]
    if not filled:
        return torch.zeros((), dtype=torch.float64, device=device)
    norms = torch.stack([norm.to(device) for norm in torch._foreach_norm(filled)])
    return norms.double().square().sum()
