"""Similarity transforms of space: rotation, translation and one positive scale, y = s R x + t.

`Sim3` is one, `Sim3Batch` many at once, for solvers that move thousands of them together. Everything is float64: a
video is a chain of these, and errors of a joint repeat at every joint. Values carry names of the form `b_from_a`, and
`c_from_b @ b_from_a` is c_from_a. Shapes: N points or similarities, K of a selection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sim3:
    """One similarity b_from_a: x_b = scale * rotation @ x_a + translation.

    `scale` [] > 0 (exactly 0 only for a fit to points that all coincide, which then has no inverse),
    `rotation` [3, 3] orthonormal with determinant +1, `translation` [3] in the units of frame b; all float64,
    on one device.
    """

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    def __post_init__(self) -> None:
        assert (self.scale.shape, self.rotation.shape, self.translation.shape) == ((), (3, 3), (3,))
        assert {self.scale.dtype, self.rotation.dtype, self.translation.dtype} == {torch.float64}

    @staticmethod
    def identity(device: torch.device | str | None = None) -> Sim3:
        """The transform that leaves every point where it is."""
        eye = torch.eye(3, dtype=torch.float64, device=device)
        return Sim3(eye.new_ones(()), eye, eye.new_zeros(3))

    @staticmethod
    def from_rigid(b_from_a: Tensor) -> Sim3:
        """The similarity of scale 1 that equals a rigid transform [3, 4]."""
        rigid = b_from_a.double()
        return Sim3(rigid.new_ones(()), rigid[:, :3], rigid[:, 3])

    def __matmul__(self, other: Sim3) -> Sim3:
        """c_from_b @ b_from_a: first `other`, then `self`."""
        translation = self.scale * (self.rotation @ other.translation) + self.translation
        return Sim3(self.scale * other.scale, self.rotation @ other.rotation, translation)

    def inverse(self) -> Sim3:
        """a_from_b. The scale must not be 0."""
        assert self.scale > 0, "a similarity of scale 0 has no inverse"
        rotation = self.rotation.T
        return Sim3(1 / self.scale, rotation, -(rotation @ self.translation) / self.scale)

    def apply(self, points: Tensor) -> Tensor:
        """Move points [..., 3] of any floating type; the result is float64 [..., 3]."""
        return self.scale * (points.double() @ self.rotation.T) + self.translation

    def apply_to_world_from_cam(self, world_from_cam: Tensor) -> Tensor:
        """Move cameras [..., 3, 4] into the new world; float64, and still rigid.

        Centres move like points and axes turn. The scale does not enter the rotation part, so lengths in
        camera coordinates (depth) have to be multiplied by `scale` by whoever holds them.
        """
        cameras = world_from_cam.double()
        return torch.cat([self.rotation @ cameras[..., :3], self.apply(cameras[..., 3])[..., None]], dim=-1)

    def matrix(self) -> Tensor:
        """Homogeneous matrix [4, 4] whose upper left 3 x 3 block is scale * rotation."""
        matrix = torch.eye(4, dtype=torch.float64, device=self.rotation.device)
        matrix[:3, :3] = self.scale * self.rotation
        matrix[:3, 3] = self.translation
        return matrix


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
