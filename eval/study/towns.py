"""Held-out towns as evaluation needs them: pictures, truth, and which chunks show nothing.

Shapes: K chunks, S frames of a chunk, F frames of a sequence, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scal3r_eval.study.chunk_errors import ChunkMotion, View, chunk_motion, chunk_views
from scal3r_train.config import UserError
from scal3r_train.data.index.index import load_index
from scal3r_train.data.io.frame_io import read_frames
from scal3r_train.data.sequence import Frames, SequenceRecord
from scal3r_train.data.synthetic.settings import read_blackouts
from scal3r_train.geometry.camera import (
    compose_extrinsics,
    fov_from_intrinsics,
    intrinsics_matrices,
    invert_extrinsics,
    world_points_from_depth,
)
from scal3r_train.inference.chunking import ScheduleSettings, chunk_ranges
from scal3r_train.model.chunk_batch import reference_index
from scal3r_train.recipe import TrainingRecipe


@dataclass(frozen=True, eq=False)
class HeldOutTown:
    """One sequence cut into chunks.

    Attributes:
        name: of the sequence.
        ranges: frames of every chunk; all chunks are equally long.
        views: what every chunk shows.
        images: [F, 3, H, W] float32 in 0..1.
        world_from_cam: [F, 3, 4] float64, the truth.
        motion: of the chunks, the truth.
        unit_m: the unit that training with `losses.normalization: sequence` asks for: mean distance of all that the
            sequence's chunks see, each from its reference camera, in metres.
    """

    name: str
    ranges: list[range]
    views: list[View]
    images: Tensor
    world_from_cam: Tensor
    motion: ChunkMotion
    unit_m: float

    @property
    def chunk_images(self) -> Tensor:
        """Images of the chunks, [K, S, 3, H, W]."""
        return torch.stack([self.images[frames.start : frames.stop] for frames in self.ranges])


def chunking_of(recipe: TrainingRecipe) -> ScheduleSettings:
    """Return how a training recipe cuts sequences.

    Raises:
        UserError: it draws from several sizes or overlaps.
    """
    sizes, overlaps = recipe.curriculum.chunk_size, recipe.curriculum.overlap
    if len(sizes) != 1 or len(overlaps) != 1 or recipe.curriculum.stages:
        raise UserError(f"recipe {recipe.name}: a study needs one chunk_size and one overlap, without stages")
    return ScheduleSettings(chunk_size=next(iter(sizes)), overlap=next(iter(overlaps)))


def load_towns(folder: Path, chunking: ScheduleSettings) -> Iterator[HeldOutTown]:
    """Yield all sequences of a folder written by `scal3r data synth`, read one by one."""
    index = load_index(folder / "index.parquet")
    return (load_town(index[row], chunking) for row in range(len(index)))


def load_town(record: SequenceRecord, chunking: ScheduleSettings) -> HeldOutTown:
    """Read a sequence and cut it."""
    frames = read_frames(record, range(record.num_frames), record.upright_hw(0), with_depth=True)
    assert frames.extrinsics is not None, "towns have exact poses"
    ranges = _ranges_of(record, chunking)
    return HeldOutTown(
        name=record.sequence_id,
        ranges=ranges,
        views=chunk_views(read_blackouts(record.root, record.num_frames), ranges),
        images=frames.images,
        world_from_cam=invert_extrinsics(frames.extrinsics),
        motion=_true_motion(record, ranges),
        unit_m=mean_distance_m(frames, ranges),
    )


def mean_distance_m(frames: Frames, ranges: list[range]) -> float:
    """Return the mean distance of a sequence's points from the reference cameras of its chunks, as training does."""
    assert frames.depth is not None, "towns have depth"
    assert frames.extrinsics is not None, "towns have exact poses"
    assert frames.intrinsics is not None, "towns have exact intrinsics"
    totals, counts = [], []
    for part in ranges:
        cut = slice(part.start, part.stop)
        extrinsics = frames.extrinsics[cut]
        world_from_reference = invert_extrinsics(extrinsics[reference_index(len(part))])
        relative = compose_extrinsics(extrinsics, world_from_reference.expand_as(extrinsics))
        depth = frames.depth[cut].double()
        points = world_points_from_depth(depth, frames.intrinsics[cut], relative)
        totals.append(points[depth > 0].norm(dim=-1).sum())
        counts.append((depth > 0).sum())
    return float(torch.stack(totals).sum() / torch.stack(counts).sum())


def _ranges_of(record: SequenceRecord, chunking: ScheduleSettings) -> list[range]:
    """Return the frames of all chunks of a sequence that are whole."""
    ranges = chunk_ranges(record.num_frames, chunking.chunk_size, chunking.overlap)
    return [part for part in ranges if len(part) == chunking.chunk_size]


def _true_motion(record: SequenceRecord, ranges: list[range]) -> ChunkMotion:
    """Return how the camera of a town truly moves in some of its chunks."""
    assert record.cam_from_world is not None, "towns have exact poses"
    assert record.intrinsics is not None, "towns have exact intrinsics"
    extrinsics, intrinsics = torch.from_numpy(record.cam_from_world), intrinsics_matrices(record.intrinsics)
    fov_w = fov_from_intrinsics(intrinsics, record.upright_hw(0))[:, 1]
    cut = [slice(part.start, part.stop) for part in ranges]
    return chunk_motion(
        torch.stack([extrinsics[part] for part in cut]), torch.stack([fov_w[part] for part in cut])
    )
