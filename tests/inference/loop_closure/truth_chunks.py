"""Predictions of chunks made from ground truth: depth and poses with noise, each chunk in its own frame and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scal3r_data_tools.adapters import game_loop
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

STRIDE = 6  # every sixth row and column
DEPTH_NOISE, ROTATION_NOISE_DEG, TRANSLATION_NOISE = 0.01, 0.1, 0.01  # the last two per frame; of the step
CHUNK_SIZE, OVERLAP, HALF_WINDOW = 60, 30, 10
ALIGNMENT = AlignmentSettings()


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of a drive: world_from_cam [S, 3, 4], rays [H, W, 3] of unit z-depth, depth [S, H, W]."""

    world_from_cam: Tensor
    rays: Tensor
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


def read_truth(folder: Path) -> Truth:
    """Read game_loop."""
    (record,) = game_loop.index(folder)
    assert record.cam_from_world is not None
    assert record.intrinsics is not None
    assert record.depth is not None
    first = STRIDE // 2
    depths = []
    for name in record.depth:
        data = (folder / name).read_bytes()
        depths.append(decode_depth(data, record.depth_codec, name)[first::STRIDE, first::STRIDE].copy())
    depth = torch.from_numpy(np.stack(depths)).double()
    fx, fy, cx, cy = record.intrinsics[0]
    rows = torch.arange(depth.shape[1], dtype=torch.float64) * STRIDE + first
    columns = torch.arange(depth.shape[2], dtype=torch.float64) * STRIDE + first
    y, x = torch.meshgrid((rows - cy) / fy, (columns - cx) / fx, indexing="ij")
    world_from_cam = invert_extrinsics(torch.from_numpy(record.cam_from_world).double())
    return Truth(world_from_cam, torch.stack([x, y, torch.ones_like(x)], dim=-1), depth)


def predict(
    truth: Truth, frames: Sequence[int], seed: int, world_from_cam: Tensor | None = None
) -> ChunkGeometry:
    """What a network might say about some frames, seen from `world_from_cam` [S, 3, 4] (default: the truth)."""
    generator = torch.Generator().manual_seed(seed)
    index = list(frames)
    cameras = truth.world_from_cam[index] if world_from_cam is None else world_from_cam
    scale = 0.5 * 4 ** torch.rand((), generator=generator, dtype=torch.float64)
    noise = torch.randn(len(index), 7, generator=generator, dtype=torch.float64) / math.sqrt(3)
    noise[:, :3] *= TRANSLATION_NOISE * truth.step
    noise[:, 3:6] *= math.radians(ROTATION_NOISE_DEG)
    noise[:, 6] = 0
    moved = sim3_tangent.exp(noise)
    cameras = compose_extrinsics(cameras, torch.cat([moved.rotation, moved.translation[..., None]], dim=2))
    depth = truth.depth[index]
    depth = depth * (1 + DEPTH_NOISE * torch.randn(depth.shape, generator=generator, dtype=torch.float64))
    chunk_from_world = Sim3.from_rigid(invert_extrinsics(cameras[0]))
    chunk_from_world = Sim3(scale, torch.eye(3).double(), torch.zeros(3).double()) @ chunk_from_world
    cameras = chunk_from_world.apply_to_world_from_cam(cameras)
    points = (scale * depth[..., None] * truth.rays) @ cameras[:, None, :, :3].transpose(-1, -2)
    points = points + cameras[:, None, None, :, 3]
    return ChunkGeometry(index, points, torch.ones_like(depth), depth > 0, invert_extrinsics(cameras))


@dataclass(frozen=True, eq=False)
class Drive:
    """All chunks of a drive, and the seams between them."""

    truth: Truth
    ranges: list[range]
    chunks: list[ChunkGeometry]
    seams: list[Seam]

    def loop_edge(
        self, first: int, second: int, settings: LoopEdgeSettings, *, false_place: bool = False
    ) -> LoopEdge:
        """The edge of a loop chunk about two frames; `false_place` puts the second where the first is."""
        windows = [range(frame - HALF_WINDOW, frame + HALF_WINDOW) for frame in (first, second)]
        a, c = (next(k for k, r in enumerate(self.ranges) if w[0] in r and w[-1] in r) for w in windows)
        frames = [*windows[0], *windows[1]]
        cameras = self.truth.world_from_cam[frames]
        if false_place:
            there, here = (self.truth.world_from_cam[frame] for frame in (first, second))
            moved = compose_extrinsics(there, invert_extrinsics(here))
            cameras = torch.cat(
                [cameras[: 2 * HALF_WINDOW], compose_extrinsics(moved, cameras[2 * HALF_WINDOW :])]
            )
        loop_chunk = predict(self.truth, frames, 10_000 + first, cameras)
        return make_loop_edge({n: self.chunks[n] for n in (a, c)}, loop_chunk, ALIGNMENT, settings)

    def trajectory(self, world_from_chunk: Sequence[Sim3]) -> Tensor:
        """world_from_cam [S, 3, 4] of all frames, each by the chunk that provides it."""
        num_frames = self.ranges[-1].stop
        rows = []
        for frame, k in enumerate(provider_chunk_of_frame(num_frames, self.ranges, OVERLAP)):
            camera = invert_extrinsics(self.chunks[k].extrinsics[frame - self.ranges[k].start])
            rows.append(world_from_chunk[k].apply_to_world_from_cam(camera))
        return torch.stack(rows)


def drive(truth: Truth) -> Drive:
    """Predict and align all chunks; the same every time."""
    ranges = chunk_ranges(len(truth.depth), CHUNK_SIZE, OVERLAP)
    chunks = [predict(truth, frames, seed) for seed, frames in enumerate(ranges)]
    seams = [align_chunks(chunks[k], chunks[k + 1], ALIGNMENT) for k in range(len(chunks) - 1)]
    return Drive(truth, ranges, chunks, seams)
