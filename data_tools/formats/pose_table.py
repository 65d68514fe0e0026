"""Poses of images as a file has them, and whether they can be poses. Shapes: P poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scal3r_data_tools.formats.poses import MAX_SKEW
from scal3r_train.config import UserError


@dataclass(frozen=True)
class PoseTable:
    """Poses as a file has them.

    Attributes:
        pose: [P, 3, 4] float64, rotation and translation; not finite where a pose is not known.
        form: how the file was read, for the user.
        time: [P] seconds (or whatever unit the file counts in), None without.
        name: what the file calls the images, () without.
        label: the first column as it is written, where it is a number: a time, or an image's name without suffix.
        intrinsics: [P, 4] fx fy cx cy where the file has them, None without.
        size_hw: [2] height, width that these belong to, None when it does not say.
        is_opengl: the format's camera axes are known to be x right, y up, z backward.
    """

    pose: np.ndarray
    form: str
    time: np.ndarray | None = None
    name: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    intrinsics: np.ndarray | None = None
    size_hw: np.ndarray | None = None
    is_opengl: bool = False

    def __len__(self) -> int:
        """P, the number of poses."""
        return len(self.pose)


def checked(table: PoseTable, path: Path) -> PoseTable:
    """Return the table if its rotations are rotations. Raises UserError naming the first that is not."""
    rotation = table.pose[:, :, :3]
    known = np.isfinite(table.pose).all((1, 2))
    if not known.any():
        raise UserError(f"{path} holds no pose that is finite")
    skew = np.abs(rotation @ rotation.swapaxes(1, 2) - np.eye(3)).max((1, 2))
    bad = known & ~(skew < MAX_SKEW)
    if bad.any():
        place = int(bad.argmax())
        with np.errstate(invalid="ignore"):
            scale = np.linalg.norm(rotation[place], axis=1)
        hint = "is it row by row?"
        if np.allclose(scale, scale[0], rtol=0.05):
            hint = f"its rows have length {scale[0]:.4g}, so a scale is in it; divide it out"
        raise UserError(f"{path}: pose {place} has no rotation in its first three columns; {hint}")
    mirrored = known & (np.linalg.det(np.where(known[:, None, None], rotation, np.eye(3))) < 0)
    if mirrored.any():
        raise UserError(
            f"{path}: pose {int(mirrored.argmax())} mirrors space (determinant -1); an axis has the wrong sign in it"
        )
    return table


def matrices(values: np.ndarray, path: Path) -> np.ndarray:
    """[P, 12] or [P, 16] -> [P, 3, 4]. Raises UserError for a last row that is not 0 0 0 1."""
    if values.shape[1] == 12:
        return values.reshape(-1, 3, 4)
    matrices = values.reshape(-1, 4, 4)
    last = np.array([0.0, 0, 0, 1])
    finite = np.isfinite(matrices).all((1, 2))
    good = ~finite | np.isclose(matrices[:, 3], last, atol=1e-6).all(1)
    if good.all():
        return matrices[:, :3]
    if np.isclose(matrices[finite][:, :, 3], last, atol=1e-6).all():  # written column by column
        return matrices.swapaxes(1, 2)[:, :3]
    place = int((~good).argmax())
    row = " ".join(f"{number:g}" for number in matrices[place, 3])
    raise UserError(f"{path}: pose {place} ends in the row {row}, which must be 0 0 0 1")
