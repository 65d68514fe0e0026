"""What single process, DDP and FSDP2 share: gradients in `.grad`, clipped here, torch's own optimizer step.

Single process and DDP: every rank holds everything, gradients are averaged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scal3r_train.model.modeling_scal3r import ONLY_PREDICTIONS, Scal3ROutput
from scal3r_train.model.precision import computing, float32_products
from scal3r_train.parallel.engine import MOMENTS, Engine, Shard, allocate_moments, stepped_parameters


class TorchEngine(Engine):
    """An engine whose parameters carry their gradients."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate in `.grad`."""
        with float32_products(self.process.device, reduced=self.is_reduced):
            self.accelerator.backward(loss)

    def _apply(self, norm: float) -> None:
        factor = min(1.0, self.clip_norm / (norm + 1e-6))  # as torch's clip_grad_norm_
        if factor < 1:
            torch._foreach_mul_([g for g in self.gradients().values() if g.numel() > 0], factor)
        self.optimizer.step()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)


class ReplicatedEngine(TorchEngine):
    """Plain PyTorch, wrapped in DDP when there are peers."""

    def _wrap(self) -> None:
        # The gradients of 1x1 convolutions have other strides than DDP's buckets: nothing a user could mend.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        self._called: nn.Module = self.accelerator.prepare(self.bare_model, device_placement=[False])
        allocate_moments(self.optimizer, stepped_parameters(self.optimizer))
        if self.name == "ddp":
            self._settle_buckets()

    def _settle_buckets(self) -> None:
        """Let DDP choose its final buckets now, by a backward on the smallest input, not in the first step.

        DDP lays its buckets out anew after the first backward, in the order in which gradients came. An all-reduce
        over more than two ranks adds their values in an order that depends on the place in a bucket. Without this a
        resumed run, whose first step has the first layout again, differs from the uninterrupted one by rounding
        (benchmarks/ddp_buckets.py).
        """
        side = 2 * self.bare_model.config.patch_size
        output = self.forward(torch.zeros(1, 1, 2, 3, side, side, device=self.process.device), None)
        sum(value.sum() for value in output.values()).backward()
        self._drop_gradients()

    def forward(
        self,
        images: Tensor,
        chunk_mask: Tensor | None,
        heads: Sequence[str] | None = None,
        fov: Tensor | None = None,
    ) -> Scal3ROutput:
        """Run the model in the recipe's precision."""
        with computing(self.process.device, reduced=self.is_reduced):
            return self._called(images, chunk_mask, heads, fov=fov, **ONLY_PREDICTIONS)

    @contextmanager
    def micro_step(self, *, is_last: bool) -> Iterator[None]:
        """Exchange gradients in the last micro-step only."""
        with self.accelerator.accumulate(self._called):
            assert self.accelerator.sync_gradients == is_last
            yield

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the whole averaged gradients."""
        return {
            name: parameter.grad
            for name, parameter in self.bare_model.named_parameters()
            if parameter.grad is not None
        }

    def holds_whole_gradient(self, name: str) -> bool:
        """Every rank holds all of it."""
        return True

    def shards(self) -> list[Shard]:
        """Return every parameter whole."""
        shards = []
        for name, parameter in self.bare_model.named_parameters():
            state = self.optimizer.state[parameter] if parameter.requires_grad else {}
            moments = {key: state[key].view(-1) for key in MOMENTS if key in state}
            weight = parameter.detach().view(-1)
            shards.append(Shard(name, tuple(parameter.shape), 0, weight, moments, is_replicated=True))
        return shards
