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
import torch
from deepspeed.utils import logger
from torch import Tensor, nn

from scal3r_train.model.modeling_scal3r import ONLY_PREDICTIONS, Scal3ROutput
from scal3r_train.model.precision import float32_products
from scal3r_train.parallel import zero_defaults
from scal3r_train.parallel.engine import MOMENTS, Engine, Shard, allocate_moments
from scal3r_train.parallel.launch import launched_engine, launched_zero_config
from scal3r_train.parallel.settings import EngineName
from scal3r_train.parallel.weights import Weights


def zero_config(name: EngineName, precision: str, accumulation_steps: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration, but for clipping.

    Whatever the recipe decides (precision, accumulation) is set here, whatever else the launcher's file says
    (buckets, offload devices, thresholds, printing) is kept.
    """
    launched = (
        launched_zero_config()
        if launched_engine()
        else {"zero_optimization": zero_defaults.ZERO_OPTIMIZATION[name]}
    )
    defaults = {
        "contiguous_gradients": True,
        "reduce_bucket_size": zero_defaults.BUCKET_NUMEL,
        "allgather_bucket_size": zero_defaults.BUCKET_NUMEL,
    }
    return {
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        **launched,
        "zero_optimization": defaults | launched["zero_optimization"],
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulation_steps,
        # No module's traffic is lowered to bf16: gradients and gathered parameters travel in fp32.
        "torch_autocast": {
            "enabled": precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


STAGE = {"zero1": 1, "zero2": 2, "zero3": 3, "zero3_offload": 3}


class ZeroEngine(Engine):
    """A DeepSpeed engine around the model and torch's AdamW.

    DeepSpeed keeps fp32 parameters and reduces fp32 gradients in either precision: bf16 is its torch_autocast with no
    module whose traffic is lowered.
    """

    _zero_engine: Any = None  # DeepSpeed's, from `prepare` on

    def _place(self, weights: Weights | None) -> None:
        logger.setLevel(logging.ERROR)  # else it prints every setting, and each skipped step once more
        # DeepSpeed calls what newer torch has renamed.
        warnings.filterwarnings(
            "ignore", message=".*is deprecated", category=FutureWarning, module="torch.distributed"
        )
        if self.process.device.type == "cpu":
            # An optional shared-memory operator that DeepSpeed would compile for a minute.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if weights is None or STAGE[self.name] < 3:
            super()._place(weights)
        else:
            self._read_partitions(weights)

    def _read_partitions(self, weights: Weights) -> None:
        """Cut the parameters one module after the other, each with storage for a moment, and read what is kept."""
        config = self.accelerator.deepspeed_plugin.deepspeed_config
        anchor: Any = None  # the first parameter that has been cut knows how to cut others
        for prefix, module in self.bare_model.named_modules():
            names = [leaf for leaf, _ in module.named_parameters(recurse=False)]
            if not names:
                continue
            parameters: list[Any] = []  # DeepSpeed gives them attributes of its own
            for leaf in names:
                empty = getattr(module, leaf)
                values = torch.zeros_like(empty, device=self.process.device)
                parameters.append(nn.Parameter(values, requires_grad=empty.requires_grad))
                setattr(module, leaf, parameters[-1])
            if anchor is None:
                deepspeed.zero.Init(nn.ParameterList(parameters), config_dict_or_path=config)
                anchor = parameters[0]
            else:
                anchor.convert_to_zero_parameters(param_list=parameters)
            for leaf, parameter in zip(names, parameters, strict=True):
                piece = parameter.ds_tensor.view(-1)[: self._num_valid(parameter)]
                weights.read_into(f"{prefix}.{leaf}" if prefix else leaf, self._start(parameter), piece)
        for module in self.bare_model.modules():
            for leaf, buffer in module.named_buffers(recurse=False):
                setattr(module, leaf, buffer.to(self.process.device))

    def _wrap(self) -> None:
        self._is_stage3 = STAGE[self.name] == 3
        self.accelerator.deepspeed_plugin.deepspeed_config["gradient_clipping"] = self.clip_norm
        # Accelerate's own `backward` would step at once; the engine that `prepare` returns leaves that to us.
        self._zero_engine, prepared = self.accelerator.prepare(self.bare_model, self.optimizer)
        self._zero = prepared.optimizer
        # `Any`: DeepSpeed has given them attributes of its own.
        self._parameters: dict[str, Any] = dict(self.bare_model.named_parameters())
        allocate_moments(self.optimizer, self._flat_partitions())
        if not self._is_stage3:
            self._zero._lazy_init_hp_params_optimizer_state()

    def forward(
        self,
        images: Tensor,
        chunk_mask: Tensor | None,
        heads: Sequence[str] | None = None,
        fov: Tensor | None = None,
    ) -> Scal3ROutput:
        """Run the model; DeepSpeed's engine opens autocast."""
        with float32_products(self.process.device, reduced=self.is_reduced):
            return self._zero_engine(images, chunk_mask, heads, fov=fov, **ONLY_PREDICTIONS)

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Tell DeepSpeed whether this micro-step is the last."""
        with super().micro_step(is_last=is_last):
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
                # Where it lies; DeepSpeed's public getter copies pieces on the host to the device, every step.
                local, _ = self._zero._get_fp32_grad_state_partition(parameter, release_swap_buffers=True)
                found[name] = local.view(-1)[: self._num_valid(parameter)]
            elif parameter._hp_mapping is not None:
                found[name] = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group)
        return found

    def holds_whole_gradient(self, name: str) -> bool:
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
        if self._zero_engine is not None:
            self._zero_engine.destroy()
        super().close()
