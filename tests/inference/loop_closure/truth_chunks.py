"""Predictions of chunks made from ground truth: depth and cameras with errors, each chunk in its own frame and scale.

A `Truth` is a sequence with known cameras and depth, `Errors` say what a network does to it, `drive` predicts and
aligns all chunks, `Drive.loop_edge` gives the verdict on two frames. A network that is fooled is modelled by
`world_from_cam` and `depth_factor` of the second window: each window by itself is right, and the two lie wrongly to
each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scal3r_data_tools.adapters import game_loop, seven_scenes
from scal3r_train.data.io.depth_codec import decode_depth
from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_geometry import ChunkGeometry
from scal3r_train.inference.alignment.seam import Seam, align_chunks
from scal3r_train.inference.alignment.settings import AlignmentSettings
from scal3r_train.inference.chunking import chunk_ranges, provider_chunk_of_frame
from scal3r_train.inference.loop_closure.edges import LoopEdge, make_loop_edge
from scal3r_train.inference.loop_closure.settings import LoopEdgeSettings
from scal3r_train.inference.prediction import ChunkPrediction

CHUNK_SIZE, OVERLAP, HALF_WINDOW = 60, 30, 10
ALIGNMENT = AlignmentSettings()
SEED_STEP = 100_000  # between runs that differ by their draws
OTHER_DRAWS = 1_000_003  # added to a seed: what was drawn first must not change when more is drawn


@dataclass(frozen=True)
class Errors:
    """What a network does to the truth.

    Attributes:
        depth: standard deviation of each pixel's relative error, independent.
        outliers: share of pixels whose depth is wrong by a factor between 1/4.5 and 4.5.
        bias: share by which all depths of a chunk are too long or, in every other chunk drawn, too short.
        bend_deg: angle by which a chunk's path is bent from its first frame to its last, about a drawn axis.
        alike: bias and bend are the same in all chunks, so that no seam shows them.
        least_scale, largest_scale: of a chunk, drawn evenly in the logarithm.
        rotation_deg, translation: of each camera, the latter as a share of the median step.
    """

    depth: float = 0.01
    outliers: float = 0.0
    bias: float = 0.0
    bend_deg: float = 0.0
    alike: bool = False
    least_scale: float = 0.5
    largest_scale: float = 2.0
    rotation_deg: float = 0.1
    translation: float = 0.01


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of a sequence: world_from_cam [S, 3, 4], intrinsics [3, 3], depth [S, H, W] (0: none)."""

    world_from_cam: Tensor
    intrinsics: Tensor
    depth: Tensor

    @property
    def step(self) -> float:
        """Median distance between consecutive cameras."""
        centres = self.world_from_cam[:, :, 3]
        return float((centres[1:] - centres[:-1]).norm(dim=1).median())

    def closest_later_frame(self, frame: int, min_gap: int) -> int:
        """The frame at least `min_gap` later whose camera is closest."""
        centres = self.world_from_cam[:, :, 3]
        distance = (centres[frame + min_gap :] - centres[frame]).norm(dim=1)
        return frame + min_gap + int(distance.argmin())


def read_truth(folder: Path, stride: int = 6) -> Truth:
    """Read game_loop, every sixth row and column."""
    (record,) = game_loop.index(folder)
    assert record.cam_from_world is not None
    assert record.intrinsics is not None
    assert record.depth is not None
    files = [folder / name for name in record.depth]
    cameras = invert_extrinsics(torch.from_numpy(record.cam_from_world).double())
    return _truth(cameras, record.intrinsics[0], files, record.depth_codec, stride)


def read_kitchen(folder: Path, stride: int = 16) -> Truth:
    """Read those frames of seven_scenes_kitchen that have depth, every sixteenth row and column."""
    (record,) = seven_scenes.index(folder)
    assert record.cam_from_world is not None
    assert record.intrinsics is not None
    assert record.depth is not None
    kept = [i for i, name in enumerate(record.depth) if name is not None and (folder / name).is_file()]
    cameras = invert_extrinsics(torch.from_numpy(record.cam_from_world[kept]).double())
    files = [folder / record.depth[i] for i in kept]
    return _truth(cameras, record.intrinsics[0], files, record.depth_codec, stride)


def _truth(cameras: Tensor, intrinsics: np.ndarray, files: Sequence[Path], codec: str, stride: int) -> Truth:
    """Every `stride`-th row and column of depth files; `intrinsics` have pixel centres at integers."""
    first = stride // 2
    depths = [
        decode_depth(file.read_bytes(), codec, file.name)[first::stride, first::stride] for file in files
    ]
    fx, fy, cx, cy = (float(value) for value in intrinsics)
    matrix = [
        [fx / stride, 0, (cx - first) / stride + 0.5],
        [0, fy / stride, (cy - first) / stride + 0.5],
        [0, 0, 1],
    ]
    depth = torch.from_numpy(np.stack(depths)).double()
    return Truth(cameras, torch.tensor(matrix, dtype=torch.float64), depth)


def predict(
    truth: Truth,
    frames: Sequence[int],
    seed: int,
    errors: Errors,
    world_from_cam: Tensor | None = None,
    depth_factor: Tensor | None = None,
) -> ChunkPrediction:
    """What a network might say about some frames.

    Args:
        truth: of the sequence.
        frames: S frame numbers.
        seed: of all draws.
        errors: that the network makes.
        world_from_cam: [S, 3, 4], where it takes the cameras to be (default: the truth).
        depth_factor: [S], what it multiplies depths by (default: 1).
    """
    generator = torch.Generator().manual_seed(seed)
    index = list(frames)
    cameras = truth.world_from_cam[index] if world_from_cam is None else world_from_cam
    spread = math.log(errors.largest_scale / errors.least_scale)
    scale = errors.least_scale * torch.exp(spread * torch.rand((), generator=generator, dtype=torch.float64))
    noise = torch.randn(len(index), 7, generator=generator, dtype=torch.float64) / math.sqrt(3)
    noise[:, :3] *= errors.translation * truth.step
    noise[:, 3:6] *= math.radians(errors.rotation_deg)
    noise[:, 6] = 0
    cameras = compose_extrinsics(cameras, _rigid(noise))
    depth = truth.depth[index]
    depth = depth * (1 + errors.depth * torch.randn(depth.shape, generator=generator, dtype=torch.float64))
    if depth_factor is not None:
        depth = depth * depth_factor[:, None, None]
    more = torch.Generator().manual_seed(seed + OTHER_DRAWS)
    sign = 1 if errors.alike else 1 - 2 * int(torch.randint(2, (), generator=more))
    axis = torch.randn(3, generator=more, dtype=torch.float64)
    if errors.alike:
        axis = torch.tensor([0, 1.0, 0], dtype=torch.float64)
    cameras = _bent(cameras, math.radians(errors.bend_deg) * axis / axis.norm())
    wrong = torch.rand(depth.shape, generator=more) < errors.outliers
    factor = torch.exp(1.5 * (2 * torch.rand(depth.shape, generator=more, dtype=torch.float64) - 1))
    depth = torch.where(wrong, depth * factor, depth) * (1 + sign * errors.bias)
    chunk_from_world = Sim3.from_rigid(invert_extrinsics(cameras[0]))
    chunk_from_world = Sim3(scale, torch.eye(3).double(), torch.zeros(3).double()) @ chunk_from_world
    cameras = chunk_from_world.apply_to_world_from_cam(cameras)
    intrinsics = truth.intrinsics.repeat(len(index), 1, 1)
    return ChunkPrediction(invert_extrinsics(cameras), intrinsics, scale * depth, torch.ones_like(depth))


def _rigid(tangent: Tensor) -> Tensor:
    """Transforms [S, 3, 4] of tangent vectors [S, 7] whose scale is 0."""
    moved = sim3_tangent.exp(tangent)
    return torch.cat([moved.rotation, moved.translation[..., None]], dim=2)


def _bent(cameras: Tensor, angle: Tensor) -> Tensor:
    """The path [S, 3, 4] whose every step turns by a share of the rotation vector `angle` more."""
    if not angle.any():
        return cameras
    turn = torch.zeros(1, 7, dtype=torch.float64)
    turn[0, 3:6] = angle / len(cameras)
    turned = _rigid(turn)[0]
    path = [cameras[0]]
    for before, after in zip(cameras, cameras[1:], strict=False):
        step = compose_extrinsics(invert_extrinsics(before), after)
        path.append(compose_extrinsics(path[-1], compose_extrinsics(step, turned)))
    return torch.stack(path)


@dataclass(frozen=True, eq=False)
class Drive:
    """All chunks of a sequence, and the seams between them."""

    truth: Truth
    ranges: list[range]
    overlap: int
    half_window: int
    errors: Errors
    chunks: list[ChunkGeometry]
    seams: list[Seam]
    seed: int = 0

    def windows(self, first: int, second: int) -> tuple[list[range], list[int]]:
        """The frames around two frames, and the first chunks that hold them."""
        windows = [range(frame - self.half_window, frame + self.half_window) for frame in (first, second)]
        return windows, [
            next(k for k, r in enumerate(self.ranges) if window[0] in r and window[-1] in r)
            for window in windows
        ]

    def joint_prediction(
        self, first: int, second: int, moved: Tensor | None = None, factor: float = 1.0
    ) -> ChunkPrediction:
        """The loop chunk about two frames.

        Args:
            first, second: the frames.
            moved: world_from_world [3, 4], where a fooled network puts the second window.
            factor: by which it makes the second window larger, about the second frame's camera.
        """
        windows, _ = self.windows(first, second)
        one, two = (self.truth.world_from_cam[list(window)] for window in windows)
        centre = self.truth.world_from_cam[second, :, 3]
        two = torch.cat([two[..., :3], (centre + factor * (two[..., 3] - centre))[..., None]], dim=2)
        two = two if moved is None else compose_extrinsics(moved, two)
        factors = torch.ones(len(one) + len(two), dtype=torch.float64)
        factors[len(one) :] = factor
        frames = [*windows[0], *windows[1]]
        seed = 10_000 + first + SEED_STEP * self.seed
        return predict(self.truth, frames, seed, self.errors, torch.cat([one, two]), factors)

    def loop_edge(
        self,
        first: int,
        second: int,
        settings: LoopEdgeSettings,
        *,
        moved: Tensor | None = None,
        factor: float = 1.0,
    ) -> LoopEdge:
        """The edge of the loop chunk about two frames; arguments as in `joint_prediction`."""
        windows, (a, c) = self.windows(first, second)
        prediction = self.joint_prediction(first, second, moved, factor)
        loop_chunk = ChunkGeometry.of(prediction, [*windows[0], *windows[1]], "depth")
        seams = [seam.quality for seam in self.seams]
        return make_loop_edge({n: self.chunks[n] for n in (a, c)}, loop_chunk, seams, ALIGNMENT, settings)

    def onto(self, first: int, second: int) -> Tensor:
        """world_from_world [3, 4] that puts the camera of `second` where that of `first` is."""
        there, here = (self.truth.world_from_cam[frame] for frame in (first, second))
        return compose_extrinsics(there, invert_extrinsics(here))

    def trajectory(self, world_from_chunk: Sequence[Sim3]) -> Tensor:
        """world_from_cam [S, 3, 4] of all frames, each by the chunk that provides it."""
        num_frames = self.ranges[-1].stop
        rows = []
        for frame, k in enumerate(provider_chunk_of_frame(num_frames, self.ranges, self.overlap)):
            camera = invert_extrinsics(self.chunks[k].extrinsics[frame - self.ranges[k].start])
            rows.append(world_from_chunk[k].apply_to_world_from_cam(camera))
        return torch.stack(rows)


def drive(
    truth: Truth,
    errors: Errors | None = None,
    chunk_size: int = CHUNK_SIZE,
    overlap: int = OVERLAP,
    half_window: int = HALF_WINDOW,
    seed: int = 0,
) -> Drive:
    """Predict and align all chunks; the same every time for a `seed`."""
    errors = errors or Errors()
    ranges = chunk_ranges(len(truth.depth), chunk_size, overlap)
    chunks = [
        ChunkGeometry.of(predict(truth, frames, number + SEED_STEP * seed, errors), frames, "depth")
        for number, frames in enumerate(ranges)
    ]
    seams = [align_chunks(chunks[k], chunks[k + 1], ALIGNMENT) for k in range(len(chunks) - 1)]
    return Drive(truth, ranges, overlap, half_window, errors, chunks, seams, seed)
