"""Many similarities at once: `Sim3` with a leading dimension, for solvers that move thousands of them together.

Shapes: N similarities, K of a selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3


@dataclass(frozen=True, eq=False)
class Sim3Batch:
    """N similarities b_from_a: `scale` [N] > 0, `rotation` [N, 3, 3], `translation` [N, 3]; float64, on the CPU."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    def __post_init__(self) -> None:
        num = len(self.scale)
        assert self.scale.shape == (num,), self.scale.shape
        assert self.rotation.shape == (num, 3, 3), self.rotation.shape
        assert self.translation.shape == (num, 3), self.translation.shape

    def __len__(self) -> int:
        return len(self.scale)

    @staticmethod
    def stack(sim3s: Sequence[Sim3]) -> Sim3Batch:
        """Put at least one single similarity into a batch."""
        return Sim3Batch(
            torch.stack([sim3.scale for sim3 in sim3s]).cpu(),
            torch.stack([sim3.rotation for sim3 in sim3s]).cpu(),
            torch.stack([sim3.translation for sim3 in sim3s]).cpu(),
        )

    def unstack(self) -> list[Sim3]:
        """Return the N similarities one by one."""
        return [Sim3(s, r, t) for s, r, t in zip(self.scale, self.rotation, self.translation, strict=True)]

    def take(self, index: Tensor) -> Sim3Batch:
        """Return those selected by a mask or by K indices."""
        return Sim3Batch(self.scale[index], self.rotation[index], self.translation[index])

    def __matmul__(self, other: Sim3Batch) -> Sim3Batch:
        """c_from_b @ b_from_a, pair by pair: first `other`, then `self`."""
        moved = (self.rotation @ other.translation[..., None])[..., 0]
        return Sim3Batch(
            self.scale * other.scale,
            self.rotation @ other.rotation,
            self.scale[:, None] * moved + self.translation,
        )

    def inverse(self) -> Sim3Batch:
        """a_from_b of each."""
        rotation = self.rotation.transpose(-1, -2)
        moved = (rotation @ self.translation[..., None])[..., 0]
        return Sim3Batch(1 / self.scale, rotation, -moved / self.scale[:, None])
