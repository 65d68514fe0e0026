"""How well single chunks know their own motion, apart from all joining of chunks, and guesses that bound it.

Everything is of a chunk's last camera in the frame of its first one, so that neither the chunk's coordinate frame nor
its reference frame matters. Lengths are in the unit that training asks for (the sequence's mean distance, or with
`losses.normalization: data` the index's own): no scale is fitted, for a chunk nor for a sequence, or a model that
answers one length for all would look good on steady drives.

Two guesses without a network bound what a memory can be of use for. `prior_motion` answers what is best on average
over the training towns, the most that a chunk alone can do: like a network, it answers in the sequence's unit of
training (`HeldOutSequence.unit_m`) and does not know how many metres that is. `copied_motion` answers the mean of the
sequence's own clear chunks, taken from the truth: about the most that a memory can hand over. Both answer for every
chunk, also those that see something.
Shapes: K chunks, S frames of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics

View = Literal["clear", "partly", "hidden"]
OF_LENGTH = ("length_percent", "shift_percent")  # errors that are shares of the true length


@dataclass(frozen=True)
class ChunkMotion:
    """What a chunk says, or the truth, about its cameras.

    Attributes:
        yaw_deg: [K] float64, signed rotation about the first camera's y axis from the first frame to the last.
        shift: [K, 3] float64, centre of the last camera in the frame of the first one.
        length: [K] float64, length of the path of the camera's centre, in the unit of `shift`: the sequence's own when
            it is read, the unit of training where it is scored.
        fov_deg: [K] float64, mean horizontal field of view.
    """

    yaw_deg: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    fov_deg: np.ndarray

    def scaled(self, factor: float) -> ChunkMotion:
        """Return the same motion with all lengths multiplied."""
        return replace(self, shift=factor * self.shift, length=factor * self.length)


def chunk_motion(extrinsics: Tensor, fov_w: Tensor, unit_m: float = 1.0) -> ChunkMotion:
    """Return the motion of chunks in metres.

    extrinsics [K, S, 3, 4] cam_from_chunk in units of `unit_m` metres; fov_w [K, S] radians.
    """
    rotation, translation = extrinsics.double().split([3, 1], dim=-1)
    extrinsics = torch.cat([rotation, unit_m * translation], dim=-1)
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

    Chunks in which the camera stands still count for yaw and field of view alone.

    `<view>_yaw_deg`: |yaw error|. `<view>_length_percent`: |log(length / true length)| in percent.
    `<view>_shift_percent`: distance between the last camera's places over the chunk's true path length.
    `<view>_fov_deg`. `scale_spread_percent`: standard deviation of log(length / true length) over clear chunks.
    """
    kinds = np.array(views)
    is_moving = truth.length > 0
    length = np.where(is_moving, truth.length, 1.0)
    log_ratio = np.log(np.maximum(estimate.length, 1e-12) / length)
    errors = {
        "yaw_deg": np.abs(_wrapped_deg(estimate.yaw_deg - truth.yaw_deg)),
        "length_percent": 100 * np.abs(log_ratio),
        "shift_percent": 100 * np.linalg.norm(estimate.shift - truth.shift, axis=-1) / length,
        "fov_deg": np.abs(estimate.fov_deg - truth.fov_deg),
    }
    found: dict[str, float | None] = {}
    for view in ("hidden", "clear"):
        for name, values in errors.items():
            chosen = (kinds == view) & (is_moving if name in OF_LENGTH else True)
            found[f"{view}_{name}"] = float(values[chosen].mean()) if chosen.any() else None
    is_clear = (kinds == "clear") & is_moving
    found["scale_spread_percent"] = float(100 * log_ratio[is_clear].std()) if is_clear.sum() >= 2 else None
    return found


def _wrapped_deg(angle: np.ndarray) -> np.ndarray:
    """Return angles in [-180, 180)."""
    return (angle + 180) % 360 - 180


def prior_motion(training: ChunkMotion, num_chunks: int, unit_m: float) -> ChunkMotion:
    """Return the median motion of the training chunks, in metres, for each of `num_chunks` chunks.

    Args:
        training: with lengths in units of each town's own `unit_m`.
        num_chunks: K of the town that is guessed.
        unit_m: of that town.
    """
    median = ChunkMotion(
        yaw_deg=np.full(num_chunks, np.median(training.yaw_deg)),
        shift=np.tile(np.median(training.shift, 0), (num_chunks, 1)),
        length=np.full(num_chunks, np.median(training.length)),
        fov_deg=np.full(num_chunks, np.median(training.fov_deg)),
    )
    return median.scaled(unit_m)


def copied_motion(truth: ChunkMotion, views: list[View]) -> ChunkMotion | None:
    """Return the mean true motion of the clear chunks for all chunks; None when no chunk is clear."""
    is_clear = np.array(views) == "clear"
    if not is_clear.any():
        return None
    num = len(views)
    return ChunkMotion(
        yaw_deg=np.full(num, truth.yaw_deg[is_clear].mean()),
        shift=np.tile(truth.shift[is_clear].mean(0), (num, 1)),
        length=np.full(num, truth.length[is_clear].mean()),
        fov_deg=np.full(num, truth.fov_deg[is_clear].mean()),
    )
