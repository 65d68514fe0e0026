"""How much a step computes: counts from its plan, and the floating-point operations of its chunks.

Everything counts real chunks only, over all ranks; a frame in the overlap of two chunks counts in both. Shapes: K
chunks, S frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scal3r_train.data.sampling.plan import StepPlan, StepShape
from scal3r_train.model.configuration_scal3r import Scal3RConfig
from scal3r_train.model.convert_checkpoint import build_on_meta
from scal3r_train.model.lora import LoraSettings, add_adapters
from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.training.monitoring.product_flops import HEADS, ProductFlops, Work

# Dense bf16 peaks in TFLOP/s by words of the device's name, from the makers' data sheets; the first row counts whose
# words are all there. None: a device that is known to be less than its name says.
PEAK_TFLOPS: tuple[tuple[str, float | None], ...] = (
    ("MIG", None),
    ("Laptop", None),
    ("RTX 4090 D", None),
    ("A100", 312.0),
    ("A800", 312.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H800", 989.0),
    ("H200 NVL", 835.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("B200", 2250.0),
    ("L40S", 362.0),
    ("A40", 149.7),
    ("RTX 4090", 165.2),
    ("RTX 6000 Ada", 364.2),
    ("RTX A6000", 154.8),
)


@dataclass(frozen=True)
class StepWork:
    """What a step is made of, its accumulated plans together.

    Attributes:
        num_groups, largest_group: context groups and the ranks of the largest.
        num_sequences, num_chunks, num_frames, num_tokens: over all ranks, without padding.
    """

    num_groups: int
    largest_group: int
    num_sequences: int
    num_chunks: int
    num_frames: int
    num_tokens: int


def step_work(plans: Sequence[StepPlan], config: Scal3RConfig) -> StepWork:
    """Return the work of the plans of one optimizer step."""
    frames = [plan.num_real_chunks * plan.shape.chunk_size for plan in plans]
    tokens = [
        count * _tokens_per_frame(plan.shape, config) for plan, count in zip(plans, frames, strict=True)
    ]
    return StepWork(
        num_groups=sum(len(plan.groups) for plan in plans),
        largest_group=max(len(group.ranks) for plan in plans for group in plan.groups),
        num_sequences=sum(plan.num_sequences for plan in plans),
        num_chunks=sum(plan.num_real_chunks for plan in plans),
        num_frames=sum(frames),
        num_tokens=sum(tokens),
    )


def peak_flops(device: torch.device) -> float | None:
    """Return the device's dense bf16 peak in FLOP/s; None for the CPU and devices whose peak we do not know."""
    if device.type != "cuda":
        return None
    return peak_flops_by_name(torch.cuda.get_device_name(device))


def peak_flops_by_name(name: str) -> float | None:
    """Return the dense bf16 peak in FLOP/s of a device called `name`, None when it is not in the table."""
    present = set(name.replace("-", " ").split())
    peaks = (peak for words, peak in PEAK_TFLOPS if present.issuperset(words.split()))
    peak = next(peaks, None)
    return None if peak is None else 1e12 * peak


class StepFlops:
    """Forward and backward operations of steps, without what activation checkpointing computes again."""

    def __init__(
        self,
        config: Scal3RConfig,
        trained: Collection[str],
        heads: Iterable[str] = HEADS,
        adapter_rank: int = 0,
    ) -> None:
        """Count for the network of `config` when only the parameters named in `trained` need a gradient.

        `heads` are those that a step runs, of "camera", "depth" and "points"; `adapter_rank` is that of its adapters.
        """
        self._patch_size = config.patch_size
        self._products = ProductFlops(config, trained, heads, adapter_rank)
        self._of_sequence = cache(self._products.count)

    def of_plan(self, plan: StepPlan) -> int:
        """Return the operations of a plan over all ranks; a memory's update counts once per sequence."""
        shape, size = plan.shape, self._patch_size
        grid = shape.resolution.height // size, shape.resolution.width // size
        one, two = (self._of_sequence(Work(number, shape.chunk_size, *grid)) for number in (1, 2))
        update = 2 * one - two
        return plan.num_real_chunks * (one - update) + plan.num_sequences * update


def counted_flops(
    config: Scal3RConfig,
    images_shape: tuple[int, ...],
    trained: Collection[str] | None = None,
    lora: LoraSettings | None = None,
) -> int:
    """Return what torch counts of one forward and backward on [B, K, S, 3, H, W]; a check of `ProductFlops`.

    Takes up to half a minute of a core at full size.

    Tensors have no values, so this needs neither memory nor a GPU. Not the meta device itself, which autocast does
    not know; attention as plain products, since the counter overlooks the fused one of the CPU. `trained` names the
    parameters that need a gradient, by default all that do in a new model, which may have adapters.
    """
    model = build_on_meta(Scal3RConfig.from_dict(config.to_dict())).train()
    if lora is not None:
        with torch.device("meta"):
            add_adapters(model, lora)
    if trained is None:
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        tensors = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype).requires_grad_(name in trained)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        }
        output: Scal3ROutput = functional_call(model, tensors, (torch.empty(images_shape),))
        values = [value.sum() for value in output.values() if isinstance(value, Tensor)]
        torch.stack(values).sum().backward()
    return counter.get_total_flops()


def _tokens_per_frame(shape: StepShape, config: Scal3RConfig) -> int:
    patches = (shape.resolution.height // config.patch_size) * (shape.resolution.width // config.patch_size)
    return patches + config.num_special_tokens
