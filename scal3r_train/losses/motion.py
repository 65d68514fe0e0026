"""Motion loss: the motion between neighbouring frames, and inverse depth, of an encoder that measures both.

    turn = sin |log(R R*^T)|              translation = |t - t*| / |t*|        log depth = |log rho - log rho*|
    fov = |f - f*|, radians, the horizontal ones      focal = |pull / (information + FOCAL_PRIOR)|
The encoder is given the true field of view (SequenceBatch.fov): a wrong one would make every turn and depth wrong, and
they would learn to make up for it. Its own, which is used where none is given, learns from the fov term alone. The
focal term is how far the pictures of a chunk would move the true focal length, if they could: depth and trust learn not
to bend it, so that a video of an unknown camera calibrates itself (inference/network/calibration.py).
The first two are means over frames and levels of the encoder; the translation's error counts relative to the true
length (at least MIN_LENGTH), so that slow and fast drives count alike. A cell's depth counts where its middle pixel has
one. A chunk's first frame has no motion.
Shapes: B sequences, K chunks, S frames, L levels, h w cells, H W pixels.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.losses.camera import FOV
from scal3r_train.losses.targets import Targets
from scal3r_train.losses.terms import WeightedTerm, cap, masked, masked_term, per_chunk, working_precision

MIN_LENGTH = 0.005  # in scene units
FOCAL_PRIOR = 100.0  # information of a chunk that tells little, 1 / 0.1^2


class MotionLossSettings(StrictModel):
    """Settings of the motion loss."""

    weight: float = Field(
        default=0.0, ge=0, description="factor of the whole motion loss; 0 leaves it out [factor]"
    )
    turn_weight: float = Field(
        default=20.0, ge=0, description="factor of the sine of the turn's error [factor]"
    )
    translation_weight: float = Field(
        default=1.0, ge=0, description="factor of the translation's relative error [factor]"
    )
    fov_weight: float = Field(
        default=0.3, ge=0, description="factor of the error of the fields of view, per radian [factor]"
    )
    focal_weight: float = Field(
        default=0.0, ge=0, description="factor of the pull on the log of the true focal length [factor]"
    )
    log_depth_weight: float = Field(
        default=1.0, ge=0, description="factor of the error of log inverse depth [factor]"
    )
    max_element_loss: float = Field(
        default=3.0,
        gt=0,
        description="cap of one frame's relative translation error and of the pull on a chunk's log focal length [-]",
    )


def motion_terms(
    fov: Tensor,
    steps: Tensor,
    inverse_depth: Tensor,
    focal_evidence: Tensor,
    targets: Targets,
    settings: MotionLossSettings,
) -> dict[str, WeightedTerm]:
    """Return the terms of what an encoder measures, the fields of a `MotionEstimate` (model/chunk_batch.py).

    Args:
        fov: [B, K, S].
        steps: [B, K, S, L, 3, 4] prev_from_cur.
        inverse_depth: [B, K, S, h, w].
        focal_evidence: [B, K, 2].
        targets: the truth.
        settings: weights and caps.
    """
    steps, inverse_depth = working_precision(steps), working_precision(inverse_depth)
    truth = true_steps(targets)[:, :, :, None]
    image_hw = (targets.depth.shape[-2], targets.depth.shape[-1])
    moves = torch.arange(steps.shape[2], device=steps.device) > 0
    is_real = (per_chunk(targets.chunk_mask, steps[..., 0, 0]) & moves[:, None]).expand(steps.shape[:4])
    has_length = is_real & per_chunk(targets.has_scale, is_real)
    error = steps[..., :3] @ truth[..., :3].mT
    # The vector of the antisymmetric part: the turn's axis times the sine of its angle.
    skew = (error - error.mT) / 2
    turn = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1)
    length = truth[..., 3].norm(dim=-1).clamp(min=MIN_LENGTH)
    off = _length(masked(steps[..., 3] - truth[..., 3], has_length[..., None])) / length
    stride = image_hw[0] // inverse_depth.shape[-2]
    cells = (..., slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    depth, has_depth = targets.depth[cells], targets.mask[cells]
    true_log_depth = torch.where(has_depth, depth, torch.ones_like(depth)).log()
    depth_error = masked(inverse_depth.log() + true_log_depth, has_depth).abs()
    turn_error = _length(masked(turn, is_real[..., None]))
    is_here = per_chunk(targets.chunk_mask, fov).expand_as(fov)
    fov_error = masked(working_precision(fov) - targets.pose_encoding[..., FOV][..., -1], is_here).abs()
    information, pull = working_precision(focal_evidence).unbind(-1)
    is_real_chunk = targets.chunk_mask[..., None]
    focal_error = masked((pull / (information + FOCAL_PRIOR))[..., None], is_real_chunk).abs()
    parts = (
        ("motion_turn", settings.turn_weight, turn_error, is_real),
        ("motion_translation", settings.translation_weight, cap(off, settings.max_element_loss), has_length),
        ("motion_fov", settings.fov_weight, fov_error, is_here),
        ("motion_focal", settings.focal_weight, cap(focal_error, settings.max_element_loss), is_real_chunk),
        ("motion_log_depth", settings.log_depth_weight, depth_error, has_depth),
    )
    return {
        name: WeightedTerm(settings.weight * weight, masked_term(value, mask))
        for name, weight, value, mask in parts
    }


def true_steps(targets: Targets) -> Tensor:
    """Return prev_from_cur [B, K, S, 3, 4] of the true poses; of the first frame and of padding, the identity."""
    encoding = targets.pose_encoding
    image_hw = (targets.depth.shape[-2], targets.depth.shape[-1])
    # Padding is all zero: give it a rotation and a field of view.
    some = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 1], dtype=encoding.dtype, device=encoding.device)
    encoding = torch.where(per_chunk(targets.chunk_mask, encoding), encoding, some)
    extrinsics, _ = decode_pose(encoding, image_hw)
    before = torch.cat([extrinsics[:, :, :1], extrinsics[:, :, :-1]], dim=2)
    return compose_extrinsics(before, invert_extrinsics(extrinsics))


def _length(vectors: Tensor) -> Tensor:
    """Return |v| of [..., 3], with no gradient at zero, where masked ones are."""
    squared = vectors.square().sum(-1)
    is_zero = squared == 0
    return masked(torch.where(is_zero, torch.ones_like(squared), squared).sqrt(), ~is_zero)
