"""What the sets recorded or rendered with Project Aria glasses share: lens, poses, pixel grid.

The lens is FISHEYE624, whose parameters are f, cx, cy, k0..k5, p0, p1, s0..s3, one focal length for both axes; pixel
centres are at integers. Images are stored turned: one clockwise quarter turn brings them upright. Poses are those of
the device: world_from_cam = world_from_device @ device_from_cam. Camera axes are OpenCV's, metres.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.poses import pose_from_xyzw
from scal3r_data_tools.formats.reading import names_file
from scal3r_train.config import UserError

CAMERA_MODEL = "fisheye624"
QUARTER_TURNS = 1
NUM_PARAMETERS = 15
_TRANSLATION = tuple(f"t{axis}_world_device" for axis in "xyz")
_ROTATION = tuple(f"q{axis}_world_device" for axis in "xyzw")
_TIME = "tracking_timestamp_us"


@dataclass(frozen=True)
class AriaCamera:
    """One camera of the glasses.

    Attributes:
        image_hw: height and width that the parameters are for.
        parameters: [15] as FISHEYE624 orders them, pixel centres at integers.
        device_from_cam: [3, 4].
    """

    image_hw: tuple[int, int]
    parameters: np.ndarray
    device_from_cam: np.ndarray

    def intrinsics(self, image_hw: tuple[int, int]) -> np.ndarray:
        """Fx fy cx cy [4] for an image of another size, pixel centres at integers."""
        scale = image_hw[1] / self.image_hw[1]
        f, cx, cy = self.parameters[:3]
        return np.array([f * scale, f * scale, (cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5])

    def world_from_cam(self, world_from_device: np.ndarray) -> np.ndarray:
        """Poses [S, 3, 4] of the device -> of the camera."""
        rotation = world_from_device[:, :, :3] @ self.device_from_cam[:, :3]
        moved = world_from_device[:, :, :3] @ self.device_from_cam[:, 3:] + world_from_device[:, :, 3:]
        return np.concatenate([rotation, moved], -1)


@names_file("path")
def read_closed_loop_trajectory(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds [S] and world_from_device [S, 3, 4] of a trajectory of Aria's machine perception services (MPS).

    It is a comma-separated table with a line of names. A row with numbers that are not finite, or without a rotation,
    becomes NaN. Raises UserError when the file is missing, lacks a column, or is not numeric.
    """
    columns = (_TIME, *_TRANSLATION, *_ROTATION)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise UserError(f"{path} has no column {lacking[0]}; is this an MPS closed-loop trajectory?")
            table = np.array([[row[name] for name in columns] for row in reader], np.float64)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; is this the dataset's own layout?") from None
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read: {error}") from None
    table = table.reshape(-1, len(columns))
    poses = np.full((len(table), 3, 4), np.nan)
    good = np.isfinite(table).all(1) & (np.linalg.norm(table[:, 4:], axis=1) > 0)
    if good.any():
        poses[good] = pose_from_xyzw(table[good, 4:], table[good, 1:4])
    return table[:, 0] * 1e-6, poses
