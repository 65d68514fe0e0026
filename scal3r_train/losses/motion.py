"""Motion loss: optical flow to the frame before, and inverse depth, of an encoder that measures both.

    flow = |f - f*|, the end-point error in pixels, mean over levels and cells        log depth = |log rho - log rho*|
f* is where the point that the centre of a cell sees lay in the frame before, by true depth and true poses, with the
principal point in the image's middle; a principal point elsewhere moves both ends alike. A cell counts where its pixel
has depth and the point lies in view of the frame before; a chunk's first frame has no flow.
Shapes: B sequences, K chunks, S frames, L levels, h w cells, H W pixels.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.geometry.camera import project, transform_points
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.losses.targets import Targets
from scal3r_train.losses.terms import WeightedTerm, cap, masked, masked_term, working_precision

MIN_DEPTH = 1e-3  # in scene units: what comes nearer to the camera's plane has no place in its image


class MotionLossSettings(StrictModel):
    """Settings of the motion loss."""

    weight: float = Field(default=0.0, ge=0, description="factor of the whole motion loss; 0 leaves it out")
    flow_weight: float = Field(default=1.0, ge=0, description="factor of the flow's end-point error, per pixel")
    log_depth_weight: float = Field(default=1.0, ge=0, description="factor of the error of log inverse depth")
    max_element_loss: float = Field(default=32.0, gt=0, description="cap of one cell's end-point error, pixels")


def motion_terms(
    flow: Tensor, inverse_depth: Tensor, targets: Targets, settings: MotionLossSettings
) -> dict[str, WeightedTerm]:
    """Terms `motion_flow` and `motion_log_depth` of flow [B, K, S, L, 2, h, w] and inverse depth [B, K, S, h, w]."""
    flow, inverse_depth = working_precision(flow), working_precision(inverse_depth)
    image_hw = (targets.depth.shape[-2], targets.depth.shape[-1])
    true_flow, is_seen, has_depth, true_log_depth = motion_targets(targets, inverse_depth.shape[-2:], image_hw)
    error = masked(flow - true_flow[:, :, :, None], is_seen[:, :, :, None, None])
    squared = error.square().sum(-3)
    # At zero, where masked cells are, the square root has no gradient.
    distance = masked(torch.where(squared > 0, squared, torch.ones_like(squared)).sqrt(), squared > 0)
    distance = cap(distance, settings.max_element_loss)
    depth_error = masked(inverse_depth.log() + true_log_depth, has_depth).abs()
    return {
        "motion_flow": WeightedTerm(
            settings.weight * settings.flow_weight,
            masked_term(distance, is_seen[:, :, :, None].expand_as(distance)),
        ),
        "motion_log_depth": WeightedTerm(
            settings.weight * settings.log_depth_weight, masked_term(depth_error, has_depth)
        ),
    }


def motion_targets(
    targets: Targets, size: tuple[int, int] | torch.Size, image_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Flow [B, K, S, 2, h, w] in pixels, where it is known, where depth is, [B, K, S, h, w] bool, and log depth."""
    stride = image_hw[0] // size[0]
    cells = (..., slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    points = targets.world_points[(*cells, slice(None))].flatten(-3, -2)
    depth, has_depth = targets.depth[cells], targets.mask[cells]
    extrinsics, intrinsics = decode_pose(_without_padding(targets), image_hw)
    before = torch.cat([extrinsics[:, :, :1], extrinsics[:, :, :-1]], dim=2)
    seen_before = transform_points(before, points)
    in_front = seen_before[..., 2] > MIN_DEPTH
    here = _safely_projected(transform_points(extrinsics, points), intrinsics)
    there = _safely_projected(seen_before, torch.cat([intrinsics[:, :, :1], intrinsics[:, :, :-1]], dim=2))
    in_view = (there > 0).all(-1) & (there < there.new_tensor([image_hw[1], image_hw[0]])).all(-1)
    is_seen = has_depth & (in_front & in_view).unflatten(-1, size)
    is_seen = is_seen & (torch.arange(depth.shape[2], device=depth.device) > 0)[:, None, None]
    flow = masked((there - here).mT.unflatten(-1, size), is_seen[:, :, :, None])
    return flow, is_seen, has_depth, torch.where(has_depth, depth, torch.ones_like(depth)).log()


def _safely_projected(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels of camera-frame points; of those at or behind the camera's plane, finite and meaningless."""
    return project(torch.cat([points[..., :2], points[..., 2:].clamp(min=MIN_DEPTH)], dim=-1), intrinsics)


def _without_padding(targets: Targets) -> Tensor:
    """Pose encodings in which padding chunks, all zero, have a rotation and a field of view."""
    blank = targets.pose_encoding.new_tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
    return torch.where(targets.chunk_mask[..., None, None], targets.pose_encoding, blank)
