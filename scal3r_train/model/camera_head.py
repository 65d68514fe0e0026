"""Camera head: iterative refinement of a nine-number pose encoding per frame (docs/numerics.md#camera-head).

Shapes: A chunks, S frames, C = 2 * hidden size channels, T refinement iterations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scal3r_train.model.block import CheckpointedBlock, InputCastingLayerNorm, Mlp
from scal3r_train.model.configuration_scal3r import Scal3RConfig

POSE_SIZE = 9
CAMERA_NORM_EPS = 1e-5
MODULATION_NORM_EPS = 1e-6


class CameraBlock(CheckpointedBlock):
    """A transformer block with the camera head's settings."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, layer_scale_init: float) -> None:
        """Build without qk-norm."""
        super().__init__(dim, num_heads, mlp_ratio, layer_scale_init, qk_norm=False, norm_eps=CAMERA_NORM_EPS)


class CameraHead(nn.Module):
    """Predict [translation, quaternion xyzw, fov_h, fov_w] of each frame of a chunk from its camera token."""

    def __init__(self, config: Scal3RConfig) -> None:
        """Build with the camera_* sizes of `config`."""
        super().__init__()
        dim = 2 * config.hidden_size
        self.num_iterations = config.camera_iterations
        self.has_start = config.has_motion
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.token_norm = InputCastingLayerNorm(dim, eps=CAMERA_NORM_EPS)
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.trunk = nn.ModuleList(
            CameraBlock(dim, config.camera_heads, config.mlp_ratio, config.layer_scale_init)
            for _ in range(config.camera_layers)
        )
        self.trunk_norm = nn.LayerNorm(dim, eps=CAMERA_NORM_EPS)
        self.pose_branch = Mlp(dim, dim // 2, POSE_SIZE + 1 if self.has_start else POSE_SIZE)

    def forward(self, camera_tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Return the pose encoding after each iteration, [T, A, S, 9], from camera tokens [A, S, C].

        The head of a network that measures motion refines `start` [A, S, 9], the first of its 1 + T stages. Its
        translations have a unit of their own, so each iteration also predicts one factor for all of a chunk's.
        """
        x = self.token_norm(camera_tokens)
        normed = F.layer_norm(x, x.shape[-1:], eps=MODULATION_NORM_EPS)
        if self.has_start:
            assert start is not None, "an encoder that measures motion states where to start"
            return self._refined(x, normed, start.to(x.dtype))
        pose = self.empty_pose_tokens.expand(*x.shape[:2], -1)
        total: Tensor | None = None
        stages = []
        for _ in range(self.num_iterations):
            delta = self._read(x, normed, pose)
            total = delta if total is None else total + delta
            pose = total
            stages.append(torch.cat([total[..., :7], F.relu(total[..., 7:])], dim=-1))
        return torch.stack(stages)

    def _refined(self, x: Tensor, normed: Tensor, start: Tensor) -> Tensor:
        """Return start [A, S, 9] and the pose encoding after each iteration, [1 + T, A, S, 9]."""
        stages = [start]
        for _ in range(self.num_iterations):
            pose = stages[-1]
            delta, log_factor = self._read(x, normed, pose + self.empty_pose_tokens).split(
                [POSE_SIZE, 1], dim=-1
            )
            factor = log_factor.mean(dim=-2, keepdim=True).exp()
            moved = torch.cat([factor * pose[..., :3], pose[..., 3:]], dim=-1) + delta
            stages.append(torch.cat([moved[..., :7], F.relu(moved[..., 7:])], dim=-1))
        return torch.stack(stages)

    def _read(self, x: Tensor, normed: Tensor, pose: Tensor) -> Tensor:
        """Return the trunk's answer to tokens x and `normed` [A, S, C], modulated by the pose so far [A, S, 9]."""
        shift, scale, gate = self.poseLN_modulation(self.embed_pose(pose)).chunk(3, dim=-1)
        y = x + gate * (normed * (1 + scale) + shift)
        for block in self.trunk:
            y = block(y)
        return self.pose_branch(self.trunk_norm(y))
