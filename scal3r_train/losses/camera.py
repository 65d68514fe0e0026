"""Camera loss: L1 on the nine numbers of the pose encoding, over all refinement stages of the camera head.

    L_c = sum_t decay^(T - 1 - t) / T * mean |g_c^(t) - g_c|      c in translation, rotation, field of view
with the last stage at full weight (VGGT's published training, which found L1 more stable than smooth L1).
Shapes: T stages, B sequences, K chunks, S frames. Translations are in scene units, fields of view in radians,
quaternions xyzw.
"""

import torch
from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.losses.terms import LossTerm, WeightedTerm, cap, masked, per_chunk, working_precision

TRANSLATION, ROTATION, FOV = slice(0, 3), slice(3, 7), slice(7, 9)


class CameraLossSettings(StrictModel):
    """Settings of the camera loss."""

    weight: float = Field(
        default=5.0, ge=0, description="factor of the whole camera loss; 0 leaves it out [factor]"
    )
    translation_weight: float = Field(
        default=1.0, ge=0, description="factor of the translation term [factor]"
    )
    rotation_weight: float = Field(default=1.0, ge=0, description="factor of the quaternion term [factor]")
    fov_weight: float = Field(default=0.5, ge=0, description="factor of the field-of-view term [factor]")
    stage_decay: float = Field(
        default=0.6, gt=0, le=1, description="weight of a refinement stage relative to the next one [factor]"
    )
    max_translation_loss: float = Field(
        default=100.0, gt=0, description="cap of one translation component's error [scene units]"
    )
    antipodal_rotations: bool = Field(
        default=True,
        description="compare with the nearer of q and -q, the same rotation; false: raw values, as VGGT does",
    )

    @property
    def teaches(self) -> bool:
        """Whether any term has a weight."""
        return self.weight * max(self.translation_weight, self.rotation_weight, self.fov_weight) > 0


def camera_terms(
    stages: Tensor, truth: Tensor, pose_mask: Tensor, translation_mask: Tensor, settings: CameraLossSettings
) -> dict[str, WeightedTerm]:
    """Terms `camera_translation`, `camera_rotation`, `camera_fov`.

    stages [T, B, K, S, 9] are the head's outputs in order of refinement, truth [B, K, S, 9]. pose_mask [B, K]
    marks real chunks, translation_mask [B, K] those whose unit of length is known as well.
    """
    stages = working_precision(stages)
    rotation_truth = truth[..., ROTATION].expand_as(stages[..., ROTATION])
    if settings.antipodal_rotations:
        rotation_truth = nearer_quaternion(rotation_truth, stages.detach()[..., ROTATION])
    translation = masked_error(stages[..., TRANSLATION], truth[..., TRANSLATION], translation_mask)
    translation = cap(translation, settings.max_translation_loss)
    rotation = masked_error(stages[..., ROTATION], rotation_truth, pose_mask)
    fov = masked_error(stages[..., FOV], truth[..., FOV], pose_mask)
    parts = (
        ("camera_translation", settings.translation_weight, translation, translation_mask),
        ("camera_rotation", settings.rotation_weight, rotation, pose_mask),
        ("camera_fov", settings.fov_weight, fov, pose_mask),
    )
    return {
        name: WeightedTerm(settings.weight * weight, stage_term(error, mask, settings.stage_decay))
        for name, weight, error, mask in parts
    }


def nearer_quaternion(quaternion: Tensor, reference: Tensor) -> Tensor:
    """The one of q and -q [..., 4] that lies in the half space of the reference [..., 4]."""
    is_opposite = (quaternion * reference).sum(-1, keepdim=True) < 0
    return torch.where(is_opposite, -quaternion, quaternion)


def masked_error(predicted: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """|predicted - truth| [T, B, K, S, c], zero without gradient where mask [B, K] is False."""
    return masked(predicted - truth, per_chunk(mask, predicted[0])).abs()


def stage_term(error: Tensor, mask: Tensor, decay: float) -> LossTerm:
    """Sum errors [T, B, K, S, c] over frames, components and stages (decayed, divided by T).

    The count is frames x components of the chunks that mask [B, K] marks.
    """
    num_stages = error.shape[0]
    exponents = torch.arange(num_stages - 1, -1, -1, device=error.device, dtype=error.dtype)
    stage_weights = (decay**exponents / num_stages).reshape(num_stages, 1, 1, 1, 1)
    total = (stage_weights * error).sum(dim=(0, 3, 4))
    num_elements = error.shape[-2] * error.shape[-1]
    return LossTerm(total=total, count=mask.to(total.dtype) * num_elements)
