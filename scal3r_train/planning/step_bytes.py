"""What one step keeps alive beside the engine's states, found by running the model's and the losses' code on shapes.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scal3r_train.losses.objective import ONE_RANK, ObjectiveSettings, compute_terms, reduce_terms
from scal3r_train.losses.targets import Targets
from scal3r_train.model.amu import AdaptiveMemoryUnit
from scal3r_train.model.modeling_scal3r import ONLY_PREDICTIONS, Scal3RModel
from scal3r_train.planning.live_bytes import ACTIVATIONS, GRADIENTS, MEMORIES, STATES, LiveBytes
from scal3r_train.planning.shape_tensor import PRETENDED, ShapesOnly, storage_of
from scal3r_train.planning.step_size import StepSize

Precision = Literal["fp32", "bf16"]
Numerics = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class StepBytes:
    """Bytes alive in the course of a step, without parameters and optimizer.

    Attributes:
        moments: (activations, gradients) at one time, only such as no other time exceeds in both. Activations are all
            that is no gradient of a parameter: what backward needs, temporaries, images, targets. They go while
            gradients come.
        memories: the most that the memory units' own results ever held; part of the activations.
    """

    moments: tuple[tuple[int, int], ...]
    memories: int

    @property
    def activations(self) -> int:
        """Return the most that activations ever hold."""
        return int(self.peak(0))

    def peak(self, gradient_share: float) -> float:
        """Return the most that activations and a share of the gradients hold at one time."""
        return max(activations + gradient_share * gradients for activations, gradients in self.moments)


class StepMeter:
    """Measures steps of one model; it stays on shapes for good.

    Attributes:
        model: the model.
        calls: how often each module was called in the last forward.
    """

    def __init__(self, model: Scal3RModel, losses: ObjectiveSettings, numerics: Numerics) -> None:
        """Take over a model that was built on `meta`, in training mode."""
        self.model = model
        self.losses = losses
        self.calls: Counter[nn.Module] = Counter()
        self._is_forward = False
        self._live = LiveBytes()
        self._shapes = ShapesOnly(self._live)
        self._shapes.convert(model, STATES)
        for module in model.modules():
            module.register_forward_pre_hook(self._count_call)
            if isinstance(module, AdaptiveMemoryUnit):
                label_results(module, self._live, MEMORIES)
            if isinstance(module, nn.LayerNorm) and numerics == "cuda":
                module.register_forward_pre_hook(_in_float32)

    def measure(self, size: StepSize, precision: Precision) -> StepBytes:
        """Run forward, loss and backward of a step."""
        live = self._live
        with ExitStack() as stack:
            stack.enter_context(self._shapes)
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    handle = parameter.register_post_accumulate_grad_hook(self._count_gradient)
                    stack.callback(handle.remove)
            live.restart_history()
            images, targets = _batch(size)
            with torch.autocast(PRETENDED.type, torch.bfloat16, enabled=precision == "bf16"):
                self.calls.clear()
                self._is_forward = True
                heads = self.model.heads_among(self.losses.heads)
                output = self.model(images, targets.chunk_mask, heads, **ONLY_PREDICTIONS)
                self._is_forward = False
            terms = compute_terms(output, targets, self.losses)
            loss, _ = reduce_terms(terms, self.losses.average, targets.chunk_mask, ONE_RANK, 1.0)
            del output, targets, terms
            loss.backward()
        self.model.zero_grad(set_to_none=True)
        return StepBytes(_highest(live), live.peak({MEMORIES: 1}))

    def _count_call(self, module: nn.Module, _: object) -> None:
        self.calls[module] += self._is_forward

    def _count_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._live.relabel(storage_of(parameter.grad), GRADIENTS)


def _highest(live: LiveBytes) -> tuple[tuple[int, int], ...]:
    """Return (activations, gradients) at the times that no other time exceeds in both."""
    times = {(row[ACTIVATIONS] + row[MEMORIES], row[GRADIENTS]) for row in live.history}
    kept: list[tuple[int, int]] = []
    for activations, gradients in sorted(times, reverse=True):
        if not kept or gradients > kept[-1][1]:
            kept.append((activations, gradients))
    return tuple(kept)


def label_results(module: nn.Module, live: LiveBytes, label: str) -> None:
    """Count what a module's forward makes under a label."""
    forward: Callable[..., Any] = module.forward

    def labelled(*inputs: Any, **options: Any) -> Any:
        with live.labelled(label):
            return forward(*inputs, **options)

    module.forward = labelled  # type: ignore[method-assign]


def _in_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Do as CUDA's autocast does with layer norms; that of the CPU runs them in the dtype it finds."""
    if not torch.is_autocast_enabled(PRETENDED.type):
        return inputs
    return (inputs[0].float(), *inputs[1:])


def _batch(size: StepSize) -> tuple[Tensor, Targets]:
    """Return images and targets of a step."""
    chunks = (size.num_sequences, size.num_chunks)
    maps = (*chunks, size.num_frames, size.height, size.width)
    targets = Targets(
        pose_encoding=torch.empty(*chunks, size.num_frames, 9),
        depth=torch.empty(maps),
        world_points=torch.empty(*maps, 3),
        mask=torch.empty(maps, dtype=torch.bool),
        scale=torch.empty(chunks, dtype=torch.float64),
        has_scale=torch.empty(chunks, dtype=torch.bool),
        chunk_mask=torch.empty(chunks, dtype=torch.bool),
    )
    return torch.empty(*chunks, size.num_frames, 3, size.height, size.width), targets
