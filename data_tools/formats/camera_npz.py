"""Cameras of single frames in .npz files, as DUSt3R's and CUT3R's preprocessing writes them under many names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_train.config import UserError
from scal3r_train.data.io.numpy_files import npz_names, read_npz

INTRINSICS = ("camera_intrinsics", "intrinsics", "intrinsic")
POSES = ("camera_pose", "cam2world", "pose")
ROTATION, TRANSLATION = "R_cam2world", "t_cam2world"
MAX_BYTES = 1 << 20  # of one array


@dataclass(frozen=True)
class CameraNpz:
    """One frame's camera.

    Attributes:
        intrinsics: [4] fx fy cx cy in pixels.
        world_from_cam: [3, 4], OpenCV axes.
        distortion: [D] coefficients that some sets add, None otherwise.
        maximum_depth: of the frame, which some sets divide their depth by; None otherwise.
    """

    intrinsics: np.ndarray
    world_from_cam: np.ndarray
    distortion: np.ndarray | None
    maximum_depth: float | None


def read_camera_npz(path: Path) -> CameraNpz | None:
    """Return the camera of a file, None when the file is missing or damaged, or its numbers are not finite.

    Raises UserError when the file is whole but its arrays have other names or shapes.
    """
    try:
        wanted = (*INTRINSICS, *POSES, ROTATION, TRANSLATION, "distortion", "maximum_depth")
        read = read_npz(path, wanted, MAX_BYTES)
        arrays = {name: array.astype(np.float64) for name, array in read.items()}
    except (OSError, ValueError, TypeError):
        return None
    k = _first(arrays, INTRINSICS)
    pose = _first(arrays, POSES)
    if pose is None and ROTATION in arrays and TRANSLATION in arrays:
        pose = np.column_stack([arrays[ROTATION].reshape(3, 3), arrays[TRANSLATION].reshape(3)])
    if k is None or pose is None or k.shape != (3, 3) or pose.shape not in ((3, 4), (4, 4)):
        raise UserError(
            f"{path} holds {', '.join(npz_names(path))[:200]}; expected one of {', '.join(INTRINSICS)} [3, 3] and of "
            f"{', '.join(POSES)} [4, 4]"
        )
    if not (np.isfinite(k).all() and np.isfinite(pose).all()):
        return None
    maximum = arrays.get("maximum_depth")
    return CameraNpz(
        intrinsics=k[[0, 1, 0, 1], [0, 1, 2, 2]],
        world_from_cam=pose[:3],
        distortion=arrays["distortion"].ravel() if "distortion" in arrays else None,
        maximum_depth=None if maximum is None else float(maximum),
    )


def _first(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)
