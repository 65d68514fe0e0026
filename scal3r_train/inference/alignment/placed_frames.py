"""Frames of a chunk moved into the world: cameras, depth and points where the chunk's similarity puts them.

Shapes: S frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics, world_points_from_depth
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.prediction import ChunkPrediction, PointSource, SavedPrediction
from scal3r_train.scene.point_cloud import PointCloud


@dataclass(frozen=True, eq=False)
class PlacedFrames:
    """Consecutive frames in the world.

    Attributes:
        frames: their numbers.
        world_from_cam: [S, 3, 4] float64.
        intrinsics: [S, 3, 3] float64, in the pixels that the prediction was in.
        depth, depth_conf: [S, H, W] z-depth in world units, positive where valid, and its confidence.
        valid: [S, H, W] bool, False where a mask excludes a pixel; None: all pixels count.
        head_points, head_conf: [S, H, W, 3] float64 and [S, H, W] of the point head; None: points come from depth.
    """

    frames: range
    world_from_cam: Tensor
    intrinsics: Tensor
    depth: Tensor
    depth_conf: Tensor
    valid: Tensor | None = None
    head_points: Tensor | None = None
    head_conf: Tensor | None = None

    @property
    def points(self) -> Tensor:
        """Points [S, H, W, 3] float64."""
        if self.head_points is not None:
            return self.head_points
        extrinsics = invert_extrinsics(self.world_from_cam)
        return world_points_from_depth(self.depth.double(), self.intrinsics, extrinsics)

    @property
    def confidence(self) -> Tensor:
        """Confidence of the points, [S, H, W]."""
        return self.depth_conf if self.head_conf is None else self.head_conf

    @property
    def usable(self) -> Tensor:
        """Pixels with a depth that no mask excludes, [S, H, W] bool."""
        return self.depth > 0 if self.valid is None else (self.depth > 0) & self.valid

    def coloured_points(self, images: Tensor, min_confidence_ratio: float) -> PointCloud:
        """Return the confident points with the colours of their images [S, 3, H, W] uint8.

        A pixel counts when it is usable and its confidence reaches `min_confidence_ratio` times the mean
        confidence of its frame.
        """
        num_pixels = self.depth[0].numel()
        mean = self.confidence.flatten(1).mean(dim=1)[:, None, None]
        keep = (self.usable & (self.confidence >= min_confidence_ratio * mean)).flatten()
        source = torch.arange(self.frames.start * num_pixels, self.frames.stop * num_pixels)
        return PointCloud(
            positions=self.points.reshape(-1, 3)[keep].numpy(),
            colours=images.movedim(1, -1).reshape(-1, 3)[keep].numpy(),
            confidence=self.confidence.flatten()[keep].numpy().astype(np.float32),
            source=source[keep].numpy(),
        )


def place_frames(
    prediction: ChunkPrediction | SavedPrediction,
    chunk_start: int,
    frames: range,
    world_from_chunk: Sim3,
    source: PointSource,
) -> PlacedFrames:
    """Return some frames of a prediction whose first frame is `chunk_start`, moved into the world."""
    part = prediction.frames(slice(frames.start - chunk_start, frames.stop - chunk_start))
    head_points, head_conf = part.points(source) if source == "head" else (None, None)
    return PlacedFrames(
        frames=frames,
        world_from_cam=world_from_chunk.apply_to_world_from_cam(invert_extrinsics(part.extrinsics)),
        intrinsics=part.intrinsics,
        depth=part.depth * world_from_chunk.scale.to(part.depth.dtype),
        depth_conf=part.depth_conf,
        valid=part.valid,
        head_points=None if head_points is None else world_from_chunk.apply(head_points),
        head_conf=head_conf,
    )
