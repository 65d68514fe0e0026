"""Where point clouds for scoring come from: files, and the depth maps of a sequence of an index.

True depth that ends at a distance also bounds the region in which clouds are compared (`CameraRegion`).
Shapes: N points, S cameras, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from scal3r_train.config import UserError
from scal3r_train.data.index.source import names_index, open_source
from scal3r_train.data.io.frame_io import frame_camera, read_frame_depth, true_world_from_cam
from scal3r_train.data.io.point_file import PointFile
from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry.camera import intrinsics_matrices, world_points_from_depth
from scal3r_train.metrics.points import NearestPoints


class CameraRegion:
    """What is within a distance of at least one true camera.

    True depth that is cut at a distance says nothing of what lies beyond: a right point there would be an error, a true
    point there that other frames happen to show could not be asked for.

    Attributes:
        reach: the distance, in the truth's units.
    """

    def __init__(self, centres: np.ndarray, reach: float) -> None:
        """Take camera centres [S, 3] float64, S > 0, in the truth's world."""
        assert reach > 0
        self.reach = reach
        self._cameras = NearestPoints(np.ascontiguousarray(centres))

    def inside(self, points: np.ndarray) -> np.ndarray:
        """Return which of the points [N, 3] float64 of the truth's world are inside, [N] bool."""
        return self._cameras.are_within(points, self.reach)


class PointSource(Protocol):
    """A cloud that can be read in blocks, any number of times."""

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield positions [N, 3] float64, all finite."""


class DepthCloud:
    """The points that the depth maps of a sequence show, in the world of its poses.

    Attributes:
        region: what is within the record's `max_depth` of a camera with depth; None without such a limit. No point is
            outside.
    """

    def __init__(self, record: SequenceRecord) -> None:
        """Take a row of an index.

        Raises:
            UserError: it has no depth, poses or intrinsics.
        """
        known = {
            "depth": bool(record.depth),
            "poses": record.cam_from_world is not None,
            "intrinsics": record.intrinsics is not None,
        }
        missing = [name for name, is_there in known.items() if not is_there]
        if missing:
            raise UserError(
                f"sequence {record.sequence_id} has no {', '.join(missing)}; give the true points as a PLY file"
            )
        self._record = record
        self.region = _region(record)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the points of every pixel with depth (not sky), frame by frame; raises UserError as the files do."""
        for index in range(self._record.num_frames):
            depth = read_frame_depth(self._record, index)
            camera = frame_camera(self._record, index)
            assert camera.intrinsics is not None
            assert camera.extrinsics is not None
            if depth is None or not np.isfinite(camera.extrinsics).all():
                continue
            height, width = self._record.upright_hw(index)
            to_depth = np.tile([depth.shape[1] / width, depth.shape[0] / height], 2)
            points = world_points_from_depth(
                torch.from_numpy(np.ascontiguousarray(depth)).double(),
                intrinsics_matrices(camera.intrinsics[None] * to_depth)[0],
                torch.from_numpy(camera.extrinsics).double(),
            ).numpy()
            points = points[depth > 0]
            yield points if self.region is None else points[self.region.inside(points)]


def _region(record: SequenceRecord) -> CameraRegion | None:
    centres = true_world_from_cam(record)[:, :, 3].numpy()
    shown = centres[np.isfinite(centres).all(axis=1) & np.array([bool(name) for name in record.depth])]
    return CameraRegion(shown, record.max_depth) if record.max_depth > 0 and len(shown) else None


def open_points(source: str) -> PointSource:
    """Open a .ply or .pcd file, or INDEX.parquet#sequence_id. Raises UserError for anything else."""
    return DepthCloud(open_source(source)) if names_index(source) else PointFile(Path(source))
