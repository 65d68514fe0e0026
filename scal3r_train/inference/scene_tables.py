"""Tables of numbers in a scene folder: trajectory.tum and intrinsics.txt. Every float64 reads back to the same bits.

Shapes: S frames.
"""

from __future__ import annotations

from pathlib import Path

import roma
import torch
from torch import Tensor

from scal3r_train.config import UserError, write_text_atomically


def tum_rows(timestamps: Tensor, world_from_cam: Tensor) -> Tensor:
    """Return [S, 8] rows: time, camera centre, orientation as an xyzw quaternion with w >= 0."""
    quaternion_xyzw = roma.rotmat_to_unitquat(world_from_cam[:, :, :3])
    quaternion_xyzw = torch.where(quaternion_xyzw[:, 3:] < 0, -quaternion_xyzw, quaternion_xyzw)
    return torch.cat([timestamps[:, None], world_from_cam[:, :, 3], quaternion_xyzw], dim=-1)


def intrinsics_matrices(entries: Tensor) -> Tensor:
    """Return matrices [S, 3, 3] from rows fx fy cx cy."""
    matrices = torch.eye(3, dtype=torch.float64).repeat(len(entries), 1, 1)
    matrices[:, 0, 0], matrices[:, 1, 1] = entries[:, 0], entries[:, 1]
    matrices[:, :2, 2] = entries[:, 2:]
    return matrices


def write_table(path: Path, header: str, rows: Tensor) -> None:
    """Write rows of numbers under a comment line; every float64 reads back to the same bits."""
    lines = [" ".join(map(repr, row)) for row in rows.double().tolist()]
    write_text_atomically(path, "\n".join([f"# {header}", *lines]) + "\n")


def read_table(path: Path, num_columns: int) -> Tensor:
    """Return the numbers of a table with comment lines, [S, num_columns] float64.

    Raises:
        UserError: the file is missing, or not every row has `num_columns` numbers.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [[float(word) for word in line.split()] for line in lines if not line.startswith("#")]
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged; reconstruct the scene again") from None
    if any(len(row) != num_columns for row in rows):
        raise UserError(f"{path} must have {num_columns} numbers in every row; reconstruct the scene again")
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, num_columns)
