"""Held-out sequences as evaluation needs them: pictures, truth, and which chunks show nothing.

Shapes: K chunks, S frames of a chunk, F frames of a sequence, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scal3r_eval.study.chunk_errors import ChunkMotion, View, chunk_motion, chunk_views
from scal3r_train.config import UserError
from scal3r_train.data.camera.resize import ResizeAndCrop
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


@dataclass(frozen=True)
class Reading:
    """How the trainings of a study read sequences, and so its evaluation too.

    Attributes:
        schedule: how sequences are cut into chunks.
        image_hw: size of the images, H and W.
        normalization: whose mean distance is the unit of length, as in `losses.normalization`.
    """

    schedule: ScheduleSettings
    image_hw: tuple[int, int]
    normalization: Literal["sequence", "data"]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        schedule = self.schedule.model_dump(mode="json")
        return {"schedule": schedule, "image_hw": [*self.image_hw], "normalization": self.normalization}


@dataclass(frozen=True, eq=False)
class HeldOutSequence:
    """One sequence cut into chunks.

    Attributes:
        name: of the sequence.
        ranges: frames of every chunk; all chunks are equally long.
        views: what every chunk shows.
        images: [F, 3, H, W] float32 in 0..1.
        world_from_cam: [F, 3, 4] float64, the truth.
        motion: of the chunks, the truth.
        unit_m: the unit that training asks for, in that of the sequence (metres for towns). With `losses.normalization:
            sequence` the mean distance of all that its chunks see, each from its reference camera; with `data` 1.
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


def reading_of(recipe: TrainingRecipe) -> Reading:
    """Return how a training recipe reads sequences.

    Raises:
        UserError: it draws from several chunk sizes, overlaps or image sizes, or every chunk has a unit of its own.
    """
    curriculum, unit = recipe.curriculum, recipe.losses.normalization
    sizes, overlaps, resolutions = curriculum.chunk_size, curriculum.overlap, curriculum.resolution
    if len(sizes) != 1 or len(overlaps) != 1 or len(resolutions) != 1 or curriculum.stages:
        raise UserError(
            f"recipe {recipe.name}: a study needs one chunk_size, one overlap and one resolution, without stages"
        )
    if unit == "chunk":
        raise UserError(f"recipe {recipe.name}: a study needs losses.normalization sequence or data")
    schedule = ScheduleSettings(chunk_size=next(iter(sizes)), overlap=next(iter(overlaps)))
    return Reading(schedule, (resolutions[0].height, resolutions[0].width), unit)


def load_sequences(folder: Path, reading: Reading) -> Iterator[HeldOutSequence]:
    """Yield all sequences of a folder with an index, whose own folders hold blackouts.txt, read one by one."""
    index = load_index(folder / "index.parquet")
    return (load_sequence(index[row], reading) for row in range(len(index)))


def load_sequence(record: SequenceRecord, reading: Reading) -> HeldOutSequence:
    """Read a sequence and cut it."""
    needs_depth = reading.normalization == "sequence"
    frames = read_frames(record, range(record.num_frames), reading.image_hw, with_depth=needs_depth)
    assert frames.extrinsics is not None, "they have exact poses"
    ranges = _ranges_of(record, reading.schedule)
    return HeldOutSequence(
        name=record.sequence_id,
        ranges=ranges,
        views=chunk_views(read_blackouts(record.root, record.num_frames), ranges),
        images=frames.images,
        world_from_cam=invert_extrinsics(frames.extrinsics),
        motion=_true_motion(record, ranges, reading.image_hw),
        unit_m=mean_distance_m(frames, ranges) if needs_depth else 1.0,
    )


def load_motion(record: SequenceRecord, reading: Reading) -> ChunkMotion:
    """Return how the camera of a sequence truly moves in its chunks, in the unit that training asks for."""
    if reading.normalization == "data":
        return _true_motion(record, _ranges_of(record, reading.schedule), reading.image_hw)
    sequence = load_sequence(record, reading)
    return sequence.motion.scaled(1 / sequence.unit_m)


def mean_distance_m(frames: Frames, ranges: list[range]) -> float:
    """Return the mean distance of a sequence's points from the reference cameras of its chunks, as training does."""
    assert frames.depth is not None, "they have depth"
    assert frames.extrinsics is not None, "they have exact poses"
    assert frames.intrinsics is not None, "they have exact intrinsics"
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


def _ranges_of(record: SequenceRecord, schedule: ScheduleSettings) -> list[range]:
    """Return the frames of all chunks of a sequence that are whole."""
    ranges = chunk_ranges(record.num_frames, schedule.chunk_size, schedule.overlap)
    return [part for part in ranges if len(part) == schedule.chunk_size]


def _true_motion(record: SequenceRecord, ranges: list[range], image_hw: tuple[int, int]) -> ChunkMotion:
    """Return how the camera of a sequence truly moves in some of its chunks; fields of view are those of its images."""
    assert record.cam_from_world is not None, "they have exact poses"
    assert record.intrinsics is not None, "they have exact intrinsics"
    extrinsics, intrinsics = torch.from_numpy(record.cam_from_world), intrinsics_matrices(record.intrinsics)
    resized = ResizeAndCrop.plan(record.upright_hw(0), image_hw).pixel_map()
    fov_w = fov_from_intrinsics(resized.processed_intrinsics(intrinsics), image_hw)[:, 1]
    cut = [slice(part.start, part.stop) for part in ranges]
    return chunk_motion(
        torch.stack([extrinsics[part] for part in cut]), torch.stack([fov_w[part] for part in cut])
    )
