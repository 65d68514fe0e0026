"""A reconstruction up to its placement, with predictions made from ground truth: each chunk in its own frame and scale.

What a network might say: the depth of every pixel and of every frame errs, cameras shake, every chunk has a scale of
its own. Joining, placing and measuring are the code that reconstructions use.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scal3r_train.data.sequence import SequenceRecord
from scal3r_train.geometry import sim3_tangent
from scal3r_train.geometry.camera import compose_extrinsics, invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.geometry.sim3_fit import fit_umeyama
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.metric.chunk_cameras import ChunkCameras
from scal3r_train.inference.metric.measure import InMetres, to_metres
from scal3r_train.inference.metric.sources import open_metric_source
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.progress import Stages
from scal3r_train.inference.rank_work import join_chunks
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.settings import ReconstructionRecipe


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what a network gets wrong.

    Attributes:
        pixel, frame: of depth, as a share: of every pixel by itself, and of a whole frame.
        rotation_deg: of every camera.
        step: of every camera's place, as a share of the median step.
    """

    pixel: float = 0.01
    frame: float = 0.01
    rotation_deg: float = 0.1
    step: float = 0.01


NO_NOISE = Noise(0, 0, 0, 0)


@dataclass(frozen=True)
class Sizes:
    """What a model says of its images."""

    image_size: int
    patch_size: int = 14


@dataclass(frozen=True, eq=False)
class TruthRun:
    """A run, its predictions and its placement in the unit of chunk 0, beside the truth.

    Attributes:
        run: of the video.
        predictions: of all chunks.
        placement: along the seams.
        world_from_cam: [S, 3, 4] the true cameras, in metres.
    """

    run: ReconstructionRun
    predictions: dict[int, ChunkPrediction]
    placement: Placement
    world_from_cam: Tensor

    def in_metres(self) -> InMetres:
        """The placement in metres, by the recipe's source."""
        source = open_metric_source(self.run.recipe.alignment.metric, self.run.video)
        assert source is not None
        return to_metres(self.run, source, self.predictions, {}, self.placement, ())  # type: ignore[arg-type]

    def scale_error(self, found: InMetres) -> float:
        """By how much the lengths of the whole scene are too large, as a share."""
        cameras = ChunkCameras.gather(self.run, self.predictions)  # type: ignore[arg-type]
        placed = cameras.world_from_cam(found.placement.world_from_chunk)[:, :, 3]
        return float(1 / fit_umeyama(placed, self.world_from_cam[:, :, 3]).scale) - 1

    def local_scale_error(self, found: InMetres) -> float:
        """By how much lengths within a chunk are too large, as a share: the median over chunks of that of its path."""
        errors = []
        for number, frames in enumerate(self.run.layout.ranges):
            centres = invert_extrinsics(self.predictions[number].extrinsics)[:, :, 3]
            placed = found.placement.world_from_chunk[number].apply(centres)
            truth = self.world_from_cam[frames.start : frames.stop, :, 3]
            errors.append(1 / fit_umeyama(placed, truth).scale - 1)
        return float(torch.stack(errors).median())


def make_truth_run(
    record: SequenceRecord,
    recipe: ReconstructionRecipe,
    world_from_cam: Tensor,
    intrinsics: Tensor,
    depth: Callable[[int], Tensor],
    output: Path,
    *,
    noise: Noise = NO_NOISE,
    seed: int = 0,
) -> TruthRun:
    """Predict all chunks of a sequence and join them.

    Args:
        record: the input, of which no image is read.
        recipe: its input, schedule and alignment count.
        world_from_cam: [S, 3, 4] true cameras of the frames that the recipe uses.
        intrinsics: [3, 3] in pixels of the processed images.
        depth: true z-depth [H, W] of a frame at the processed size; 0 where it is not known.
        output: a scene folder that is not written.
        noise: of the predictions.
        seed: of the noise and of the chunks' scales.
    """
    height, width = recipe.input.image_hw or (0, 0)
    video = Video.choose(record, recipe.input, Sizes(max(height, width)))
    layout = Layout.plan(video.num_frames, recipe.schedule, 1)
    device = torch.device("cpu")
    run = ReconstructionRun(video, layout, recipe, Stages(visible=False), output, device)
    generator = torch.Generator().manual_seed(seed)
    predictions = {
        number: _predict(world_from_cam, intrinsics, depth, frames, noise, generator)
        for number, frames in enumerate(layout.ranges)
    }
    placement = join_chunks(run, predictions, {})  # type: ignore[arg-type]
    return TruthRun(run, predictions, placement, world_from_cam)


def _predict(
    world_from_cam: Tensor,
    intrinsics: Tensor,
    depth: Callable[[int], Tensor],
    frames: range,
    noise: Noise,
    generator: torch.Generator,
) -> ChunkPrediction:
    num = len(frames)
    step = float(world_from_cam[:, :, 3].diff(dim=0).norm(dim=1).median())
    scale = 0.3 * 10 ** torch.rand((), generator=generator, dtype=torch.float64)
    shake = torch.randn(num, 7, generator=generator, dtype=torch.float64)
    shake[:, :3] *= noise.step * step
    shake[:, 3:6] *= math.radians(noise.rotation_deg)
    shake[:, 6] = 0
    moved = sim3_tangent.exp(shake)
    cameras = compose_extrinsics(
        world_from_cam[frames.start : frames.stop],
        torch.cat([moved.rotation, moved.translation[..., None]], dim=2),
    )
    true = torch.stack([depth(frame) for frame in frames])
    factor = 1 + noise.frame * torch.randn(num, 1, 1, generator=generator)
    factor = factor * (1 + noise.pixel * torch.randn(true.shape, generator=generator))
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    chunk_from_world = Sim3(scale, eye, zero) @ Sim3.from_rigid(invert_extrinsics(cameras[0]))
    extrinsics = invert_extrinsics(chunk_from_world.apply_to_world_from_cam(cameras))
    predicted = (true * factor * float(scale)).float()
    return ChunkPrediction(extrinsics, intrinsics.expand(num, 3, 3), predicted, torch.ones_like(predicted))
