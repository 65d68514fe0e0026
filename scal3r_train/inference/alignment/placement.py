"""Frames of a chunk, or of two chunks together, where they lie in the world.

Shapes: S frames, H W pixels.

Overlap frames once: two predictions of the same frame, in world coordinates, made one.

The share of the later chunk grows along the overlap from 0 before its first frame to 1 after its last, so that the
trajectory and the depth pass from one chunk to the other without a jump; within that, confidence decides. Where two
depths disagree, their mean lies in mid-air: the one of greater weight is taken. Shapes: S frames, H W pixels.

Where chunks lie in the world, and with them their frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics, world_points_from_depth
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.geometry.sim3_tangent import exp, rotation_log
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.settings import FusionSettings
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.prediction import ChunkPrediction, PointSource, SavedPrediction
from scal3r_train.inference.settings import ReconstructionRecipe
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


def overlap_shares(num_overlap: int) -> Tensor:
    """Shares [num_overlap] float64 of the later chunk, evenly spaced strictly between 0 and 1."""
    return torch.arange(1, num_overlap + 1, dtype=torch.float64) / (num_overlap + 1)


def fuse_frames(
    earlier: PlacedFrames, later: PlacedFrames, shares: Tensor, settings: FusionSettings
) -> PlacedFrames:
    """Return one prediction of S frames that two chunks predicted.

    Args:
        earlier, later: the same frames by either chunk, placed in the world.
        shares: [S] in [0, 1] of the later chunk; at 0 and 1 the result is that chunk's (where its depth is valid).
        settings: of the fusion.

    Returns:
        Cameras on the shortest arc between the two, intrinsics between them (float64); depth, confidence and the point
        head's points in the earlier ones' type, mixed with the same weights. A pixel valid in one chunk only is taken
        from there; one valid in neither has depth 0.
    """
    assert earlier.frames == later.frames, (earlier.frames, later.frames)
    camera_weight = _weight(_mean_confidence(earlier), _mean_confidence(later), shares.double())
    pixel_weight = _pixel_weight(earlier, later, shares.double()[:, None, None], settings)
    either = (earlier.depth > 0) | (later.depth > 0)

    def mixed(one: Tensor, two: Tensor, weight: Tensor) -> Tensor:
        # So equals stay what they are to the last bit.
        return (one.double() + weight * (two.double() - one.double())).to(one.dtype)

    points = conf = None
    if earlier.head_points is not None and later.head_points is not None:
        assert earlier.head_conf is not None
        assert later.head_conf is not None
        points = mixed(earlier.head_points, later.head_points, pixel_weight[..., None])
        conf = mixed(earlier.head_conf, later.head_conf, pixel_weight)
    return PlacedFrames(
        earlier.frames,
        _between(earlier.world_from_cam.double(), later.world_from_cam.double(), camera_weight),
        mixed(earlier.intrinsics.double(), later.intrinsics, camera_weight[:, None, None]),
        torch.where(either, mixed(earlier.depth, later.depth, pixel_weight), 0),
        mixed(earlier.depth_conf, later.depth_conf, pixel_weight),
        earlier.valid,  # of the frame, not of the chunk
        points,
        conf,
    )


def _weight(earlier_confidence: Tensor, later_confidence: Tensor, share: Tensor) -> Tensor:
    """The later one's weight in [0, 1]."""
    earlier_part, later_part = (1 - share) * earlier_confidence, share * later_confidence
    return later_part / (earlier_part + later_part)


def _mean_confidence(frames: PlacedFrames) -> Tensor:
    """[S] float64, over valid pixels; the smallest positive number where there is none."""
    valid = frames.depth > 0
    total = torch.where(valid, frames.depth_conf, 0).double().sum(dim=(1, 2))
    mean = total / valid.sum(dim=(1, 2)).clamp(min=1)
    return mean.clamp(min=torch.finfo(torch.float32).tiny)


def _between(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """world_from_cam [S, 3, 4] on the way from a to b: centres on the line, rotations on the shortest arc."""
    turn = rotation_log(a[..., :3].transpose(-1, -2) @ b[..., :3]) * weight[:, None]
    zeros = torch.zeros(len(a), 3, dtype=a.dtype)
    part: Sim3Batch = exp(torch.cat([zeros, turn, zeros[:, :1]], dim=1))
    centre = (1 - weight[:, None]) * a[..., 3] + weight[:, None] * b[..., 3]
    return torch.cat([a[..., :3] @ part.rotation, centre[..., None]], dim=-1)


def _pixel_weight(
    earlier: PlacedFrames, later: PlacedFrames, share: Tensor, settings: FusionSettings
) -> Tensor:
    """The later one's weight in every pixel [S, H, W] float64: 0 or 1 where the depths cannot be mixed."""
    weight = _weight(earlier.depth_conf.double(), later.depth_conf.double(), share)
    a, b = earlier.depth.double(), later.depth.double()
    a_valid, b_valid = a > 0, b > 0
    agree = (a - b).abs() <= settings.max_relative_difference * torch.minimum(a, b)
    weight = torch.where(agree, weight, (weight > 0.5).double())
    return torch.where(a_valid & b_valid, weight, b_valid.double())


Prediction = ChunkPrediction | SavedPrediction


@dataclass(frozen=True, eq=False)
class Placement:
    """Where all chunks lie.

    Attributes:
        world_from_chunk: of every chunk.
        seams: how each chunk but the first joins the one before it.
        median_depth: of chunk 0, in world units: the size of what the camera sees.
    """

    world_from_chunk: list[Sim3]
    seams: list[Seam]
    median_depth: float

    def moved(self, first_from_chunk: Sequence[Sim3]) -> Placement:
        """Return the placement with chunks elsewhere relative to the first, which stays."""
        first = self.world_from_chunk[0]
        return replace(self, world_from_chunk=[first @ other for other in first_from_chunk])

    def decided_frames(
        self,
        prediction: Prediction,
        later: Prediction | None,
        number: int,
        layout: Layout,
        recipe: ReconstructionRecipe,
    ) -> Iterator[PlacedFrames]:
        """Yield what chunk `number` decides alone, then what it decides with the `later` one (None after the last)."""
        assert (later is None) == (number == len(layout.shared)), f"chunk {number + 1} is missing"
        yield from self.own_frames(prediction, number, layout.own[number], layout, recipe)
        if later is not None:
            yield from self.shared_frames(prediction, later, number, layout, recipe)

    def own_frames(
        self, prediction: Prediction, number: int, frames: range, layout: Layout, recipe: ReconstructionRecipe
    ) -> Iterator[PlacedFrames]:
        """Yield the frames `frames` of chunk `number` as it alone says; nothing for no frames."""
        if frames:
            start, world = layout.ranges[number].start, self.world_from_chunk[number]
            yield place_frames(prediction, start, frames, world, recipe.points)

    def shared_frames(
        self,
        earlier: Prediction,
        later: Prediction,
        number: int,
        layout: Layout,
        recipe: ReconstructionRecipe,
    ) -> Iterator[PlacedFrames]:
        """Yield the frames that chunk `number` and the next one decide together.

        Across a break, where nothing is known of how the two lie to each other, each decides those near it.

        Args:
            earlier, later: predictions of the two, the later one at least of the frames that both have.
            number: of the earlier one.
            layout: of the video.
            recipe: for the points and the fusion.
        """
        frames = layout.shared[number]
        if self.seams[number].quality.method == "break":
            middle = layout.provided[number + 1].start
            before, after = range(frames.start, middle), range(middle, frames.stop)
            yield from self.own_frames(earlier, number, before, layout, recipe)
            yield from self.own_frames(later, number + 1, after, layout, recipe)
            return
        (one,) = self.own_frames(earlier, number, frames, layout, recipe)
        (two,) = self.own_frames(later, number + 1, frames, layout, recipe)
        yield fuse_frames(one, two, overlap_shares(len(frames)), recipe.fusion)
