"""What single process, DDP and FSDP2 share: gradients in `.grad`, clipped here, torch's own optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor

from scal3r_train.parallel.engine import Engine, allocate_moments


class TorchEngine(Engine):
    """An engine whose parameters carry their gradients."""

    def _wrap(self) -> None:
        groups = self.optimizer.param_groups
        allocate_moments(self.optimizer, (parameter for group in groups for parameter in group["params"]))

    def backward(self, loss: Tensor) -> None:
        """Accumulate in `.grad`."""
        (loss / self.accumulation_steps).backward()

    def _apply(self, norm: float) -> None:
        factor = min(1.0, self.clip_norm / (norm + 1e-6))  # as torch's clip_grad_norm_
        if factor < 1:
            torch._foreach_mul_([g for g in self.gradients().values() if g.numel() > 0], factor)
        self.optimizer.step()
        self._drop_gradients()

    def _drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
