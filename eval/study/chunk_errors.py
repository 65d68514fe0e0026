"""How well single chunks know their own motion, apart from all joining of chunks.

Everything is of a chunk's last camera in the frame of its first one, so that neither the chunk's coordinate frame nor
its reference frame matters. Lengths are compared after one scale for the whole sequence, the median that its clear
chunks ask for: a hidden chunk gets no scale of its own. Shapes: K chunks, S frames of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics

View = Literal["clear", "partly", "hidden"]


@dataclass(frozen=True)
class ChunkMotion:
    """What a chunk says, or the truth, about its cameras.

    Attributes:
        yaw_deg: [K] float64, signed rotation about the first camera's y axis from the first frame to the last.
        shift: [K, 3] float64, centre of the last camera in the frame of the first one.
        length: [K] float64, length of the path of the camera's centre.
        fov_deg: [K] float64, mean horizontal field of view.
    """

    yaw_deg: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    fov_deg: np.ndarray


def chunk_motion(extrinsics: Tensor, fov_w: Tensor) -> ChunkMotion:
    """Return the motion of chunks: extrinsics [K, S, 3, 4] cam_from_chunk, fov_w [K, S] radians."""
    extrinsics = extrinsics.double()
    chunk_from_cam = invert_extrinsics(extrinsics)
    first_from_last = compose_extrinsics(extrinsics[:, 0], chunk_from_cam[:, -1])
    rotation = first_from_last[..., :3]
    steps = chunk_from_cam[:, 1:, :, 3] - chunk_from_cam[:, :-1, :, 3]
    return ChunkMotion(
        yaw_deg=torch.atan2(rotation[:, 0, 2], rotation[:, 2, 2]).rad2deg().numpy(),
        shift=first_from_last[..., 3].numpy(),
        length=steps.norm(dim=-1).sum(-1).numpy(),
        fov_deg=fov_w.double().mean(-1).rad2deg().numpy(),
    )


def chunk_views(is_hidden: np.ndarray, ranges: list[range]) -> list[View]:
    """Return for each chunk whether all, some or none of its frames show something; is_hidden [frames] bool."""
    names: dict[tuple[bool, bool], View] = {(True, True): "hidden", (False, False): "clear"}
    found = []
    for frames in ranges:
        part = is_hidden[frames.start : frames.stop]
        found.append(names.get((bool(part.all()), bool(part.any())), "partly"))
    return found


def motion_errors(estimate: ChunkMotion, truth: ChunkMotion, views: list[View]) -> dict[str, float | None]:
    """Return the means over a sequence's hidden and clear chunks; None where there is no such chunk.

    `<view>_yaw_deg`: |yaw error|. `<view>_length_percent`: |log(length / true length)| in percent.
    `<view>_shift_percent`: distance between the last camera's places over the chunk's true path length.
    `<view>_fov_deg`. `scale_spread_percent`: standard deviation of log(length / true length) over clear chunks.
    """
    kinds = np.array(views)
    log_ratio = np.log(np.maximum(estimate.length, 1e-12) / truth.length)
    is_clear = kinds == "clear"
    log_scale = float(np.median(log_ratio[is_clear])) if is_clear.any() else None
    errors = {
        "yaw_deg": np.abs(_wrapped_deg(estimate.yaw_deg - truth.yaw_deg)),
        "fov_deg": np.abs(estimate.fov_deg - truth.fov_deg),
    }
    if log_scale is not None:
        errors["length_percent"] = 100 * np.abs(log_ratio - log_scale)
        distance = np.linalg.norm(estimate.shift * np.exp(-log_scale) - truth.shift, axis=-1)
        errors["shift_percent"] = 100 * distance / truth.length
    found: dict[str, float | None] = {}
    for view in ("hidden", "clear"):
        chosen = kinds == view
        for name in ("yaw_deg", "length_percent", "shift_percent", "fov_deg"):
            is_known = name in errors and chosen.any()
            found[f"{view}_{name}"] = float(errors[name][chosen].mean()) if is_known else None
    enough = is_clear.sum() >= 2
    found["scale_spread_percent"] = float(100 * log_ratio[is_clear].std()) if enough else None
    return found


def _wrapped_deg(angle: np.ndarray) -> np.ndarray:
    """Return angles in [-180, 180)."""
    return (angle + 180) % 360 - 180
