"""DeepSpeed ZeRO 1, 2, 3 and 3 with offload: flat fp32 partitions, read and written through DeepSpeed's own maps.

DeepSpeed's configuration: the launcher's where it gave one, ours where it left things open.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import deepspeed
import deepspeed.ops
from deepspeed.utils import logger
from torch import Tensor

from scal3r_train.model.modeling_scal3r import Scal3ROutput
from scal3r_train.model.precision import float32_products
from scal3r_train.parallel.engine import MOMENTS, Engine, Shard, allocate_moments
from scal3r_train.parallel.launch import launched_engine, launched_zero_config
from scal3r_train.parallel.settings import EngineName

# Bytes in flight per bucket are 4 times these numbers.
BUCKET_NUMEL = 50_000_000
ZERO_OPTIMIZATION: dict[str, dict[str, Any]] = {
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero3": {"stage": 3},
    "zero3_offload": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "offload_param": {"device": "cpu", "pin_memory": False},
    },
}


def zero_config(
    name: EngineName, precision: str, clip_norm: float, accumulation_steps: int
) -> dict[str, Any]:
    """Return the configuration for `deepspeed.initialize`.

    Whatever the recipe decides (precision, clipping, accumulation) is set here, whatever else the launcher's file
    says (buckets, offload devices, thresholds) is kept.
    """
    if launched_engine() is None:
        config: dict[str, Any] = {"zero_optimization": dict(ZERO_OPTIMIZATION[name])}
    else:
        config = {key: value for key, value in launched_zero_config().items() if value != "auto"}
    zero = {key: value for key, value in config["zero_optimization"].items() if value != "auto"}
    defaults = {
        "contiguous_gradients": True,
        "reduce_bucket_size": BUCKET_NUMEL,
        "allgather_bucket_size": BUCKET_NUMEL,
    }
    config.pop("bf16", None)
    config.pop("fp16", None)
    return config | {
        "zero_optimization": defaults | zero,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": clip_norm,
        # No module's traffic is lowered to bf16: gradients and gathered parameters travel in fp32.
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


STAGE = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3}


class ZeroEngine(Engine):
    """A DeepSpeed engine around the model and torch's AdamW.

    DeepSpeed keeps fp32 parameters and reduces fp32 gradients in either precision: bf16 is its torch_autocast with no
    module whose traffic is lowered.
    """

    def _wrap(self) -> None:
        logger.setLevel(logging.ERROR)  # else it prints every setting, and each skipped step once more
        # DeepSpeed calls what newer torch has renamed.
        warnings.filterwarnings(
            "ignore", message=".*is deprecated", category=FutureWarning, module="torch.distributed"
        )
        if self.process.device.type == "cpu":
            # An optional shared-memory operator that DeepSpeed would compile for a minute.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._is_stage3 = STAGE[self.name] == 3
        self._zero_engine, self._zero, _, _ = deepspeed.initialize(
            model=self.bare_model,
            optimizer=self.optimizer,
            config=zero_config(self.name, self.settings.precision, self.clip_norm, self.accumulation_steps),
        )
        # `Any`: DeepSpeed has given them attributes of its own.
        self._parameters: dict[str, Any] = dict(self.bare_model.named_parameters())
        allocate_moments(self.optimizer, self._flat_partitions())
        if not self._is_stage3:
            self._zero._lazy_init_hp_params_optimizer_state()

    def forward(
        self, images: Tensor, chunk_mask: Tensor | None, heads: Sequence[str] | None = None
    ) -> Scal3ROutput:
        """Run the model; DeepSpeed's engine opens autocast."""
        with float32_products(self.process.device, reduced=self.is_reduced):
            return self._zero_engine(images, chunk_mask, heads)

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Tell DeepSpeed whether this micro-step is the last."""
        self._zero_engine.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Accumulate and, in the last micro-step, reduce."""
        with float32_products(self.process.device, reduced=self.is_reduced):
            self._zero_engine.backward(loss)

    def gradients(self) -> Mapping[str, Tensor]:
        """Return this rank's fragments of the averaged gradients."""
        found = {}
        for name, parameter in self._parameters.items():
            if not parameter.requires_grad:
                continue
            if self._is_stage3:
                local = self._zero.get_local_fp32_grad_for_param(parameter)
                found[name] = local.view(-1)[: self._num_valid(parameter)]
            elif parameter._hp_mapping is not None:
                found[name] = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return found

    @property
    def holds_whole_gradients(self) -> bool:
        """Every rank holds its fragments."""
        return False

    def _apply(self, norm: float) -> None:
        self._zero_engine.step()  # clips by the same rule (`gradient_clipping`) with a norm of its own

    def _drop_gradients(self) -> None:
        # DeepSpeed skips a step whose gradient is not finite and clears what it has gathered; a vote may be lost
        # over the loss alone, so the gradient is made so.
        for gradient in self.gradients().values():
            gradient.fill_(math.nan)
        if self.name == "zero3_offload":
            self._zero.norm_for_param_grads |= dict.fromkeys(self._zero.norm_for_param_grads, math.nan)
        self._zero_engine.step()

    def shards(self) -> list[Shard]:
        """Return this rank's fragments of every parameter."""
        shards = []
        for name, parameter in self._parameters.items():
            shard = self._stage3_shard if self._is_stage3 else self._stage12_shard
            shards += shard(name, parameter)
        return shards

    def _stage12_shard(self, name: str, parameter: Any) -> list[Shard]:
        if not parameter.requires_grad:
            weight = parameter.detach().view(-1)
            return [Shard(name, tuple(parameter.shape), 0, weight, is_replicated=True)]
        mapping = parameter._hp_mapping
        if mapping is None:  # other ranks hold all of it
            return []
        moments = {key: mapping.get_optim_state_fragment(key) for key in MOMENTS}
        start = mapping.lp_fragment_address.start
        return [Shard(name, tuple(parameter.shape), start, mapping.get_hp_fragment().detach(), moments)]

    def _stage3_shard(self, name: str, parameter: Any) -> list[Shard]:
        count, start = self._num_valid(parameter), self._start(parameter)
        shape = tuple(parameter.ds_shape)
        if not parameter.requires_grad:
            return [Shard(name, shape, start, parameter.ds_tensor.detach().view(-1)[:count])]

        def piece(key: str | None) -> Tensor:
            partition, _ = self._zero._get_fp32_opt_state_partition(
                parameter, release_swap_buffers=False, optim_state_key=key
            )
            return partition.detach()[:count]

        return [Shard(name, shape, start, piece(None), {key: piece(key) for key in MOMENTS})]

    def _start(self, parameter: Any) -> int:
        return min(self.process.rank * parameter.partition_numel(), parameter.ds_numel)

    def _num_valid(self, parameter: Any) -> int:
        """Return the elements of this rank's partition that are not padding."""
        return min(parameter.partition_numel(), parameter.ds_numel - self._start(parameter))

    def _flat_partitions(self) -> list[Tensor]:
        zero = self._zero
        return zero.fp32_partitioned_groups_flat if self._is_stage3 else zero.single_partition_of_fp32_groups

    def _publish_weights(self) -> None:
        if not self._is_stage3:
            self._zero.update_lp_params()
            return
        for number in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(number)
        persistent = self._zero.persistent_parameters
        if persistent:  # small parameters that DeepSpeed never releases
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)

    def close(self) -> None:
        """Let DeepSpeed drop its hooks and buffers."""
        self._zero_engine.destroy()
