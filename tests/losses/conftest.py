"""Synthetic ground truth and a perfect prediction of it.

Shapes: B sequences, K chunks, S frames, H W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import roma
import torch
from torch import Tensor

from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.losses.targets import Targets


@dataclass(frozen=True)
class Output:
    """The fields of Scal3ROutput that the losses read."""

    pose_encoding_stages: Tensor | None
    depth: Tensor | None
    depth_conf: Tensor | None
    world_points: Tensor | None
    world_points_conf: Tensor | None
    motion_poses = motion_steps = inverse_depth = motion_fov = focal_evidence = None

    def with_gradient(self) -> "Output":
        """The same output as leaves of a graph."""
        leaf = {
            name: value.detach().clone().requires_grad_()
            for name, value in vars(self).items()
            if value is not None
        }
        return replace(self, **leaf)


def _make_batch(num_sequences=1, num_chunks=2, num_frames=3, hw=(12, 16), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=dtype)

    lead = (num_sequences, num_chunks, num_frames)
    rotation = roma.rotvec_to_rotmat(uniform(-0.3, 0.3, *lead, 3))
    intrinsics = torch.eye(3, dtype=dtype).repeat(*lead, 1, 1)
    intrinsics[..., 0, 0] = uniform(10, 20, *lead)
    intrinsics[..., 1, 1] = uniform(10, 20, *lead)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2] = hw[1] / 2, hw[0] / 2
    return SequenceBatch(
        images=uniform(0, 1, *lead, 3, *hw),
        depth=uniform(1, 5, *lead, *hw) * (uniform(0, 1, *lead, *hw) > 0.2),
        extrinsics=torch.cat([rotation, uniform(-1, 1, *lead, 3, 1)], dim=-1),
        intrinsics=intrinsics,
        chunk_mask=torch.ones(num_sequences, num_chunks, dtype=torch.bool),
        sequence_ids=tuple(f"town_{i}" for i in range(num_sequences)),
    )


def _perfect_output(targets: Targets, num_stages: int = 3) -> Output:
    return Output(
        pose_encoding_stages=targets.pose_encoding.expand(num_stages, *targets.pose_encoding.shape).clone(),
        depth=targets.depth.clone(),
        depth_conf=torch.ones_like(targets.depth),
        world_points=targets.world_points.clone(),
        world_points_conf=torch.ones_like(targets.depth),
    ).with_gradient()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., SequenceBatch]:
    return _make_batch


@pytest.fixture(scope="session")
def perfect_output() -> Callable[..., Output]:
    return _perfect_output
