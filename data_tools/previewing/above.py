"""Cameras as images that stand upright have them. Shapes: S frames."""

from __future__ import annotations

import numpy as np

from scal3r_train.data.frame_io import TURNED_FROM_CAMERA
from scal3r_train.data.sequence import SequenceRecord


def upright_poses(record: SequenceRecord) -> np.ndarray:
    """Return cam_from_world [S, 3, 4] of the images as they stand upright. The record has poses."""
    assert record.cam_from_world is not None, "no poses"
    return np.linalg.matrix_power(TURNED_FROM_CAMERA, record.quarter_turns % 4) @ record.cam_from_world
