"""The cameras of all chunks, each in its chunk's coordinates, and where a placement puts them.

Shapes: S frames, M moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scal3r_train.geometry.camera import invert_extrinsics
from scal3r_train.geometry.sim3 import Sim3, Sim3Batch
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.metric.track_fit import STD_OF_MEDIAN
from scal3r_train.inference.prediction import SavedPrediction
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.parallel.collectives import gather_to_all, raise_on_all_ranks


@dataclass(frozen=True, eq=False)
class ChunkCameras:
    """Cameras of all chunks.

    Attributes:
        layout: which frames each has.
        chunk_from_cam: of every chunk, [S, 3, 4] float64 of its frames.
    """

    layout: Layout
    chunk_from_cam: tuple[Tensor, ...]

    @staticmethod
    def gather(run: ReconstructionRun, predictions: Mapping[int, SavedPrediction]) -> ChunkCameras:
        """Return the cameras of the chunks of all processes; every process must call this."""
        with raise_on_all_ranks():
            own = {
                number: invert_extrinsics(predictions[number].frames(slice(None)).extrinsics)
                for number in predictions
            }
        everyone = {number: found for part in gather_to_all(own) for number, found in part.items()}
        return ChunkCameras(run.layout, tuple(everyone[number] for number in sorted(everyone)))

    def provider(self, frames: np.ndarray) -> np.ndarray:
        """Return the chunk that provides each of some frames [M], which need not be whole numbers: [M] int64."""
        starts = np.array([provided.start for provided in self.layout.provided])
        return np.searchsorted(starts, np.floor(frames), side="right") - 1

    def points(self, frames: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return chunks [M] and the camera's centre in their coordinates [M, 3] at frames [M], lines between two."""
        chunk = self.provider(frames)
        rows = []
        for number, frame in zip(chunk.tolist(), frames.tolist(), strict=True):
            centres = self.chunk_from_cam[number][:, :, 3]
            place = frame - self.layout.ranges[number].start
            before = int(place)
            after = min(before + 1, len(centres) - 1)
            rows.append(torch.lerp(centres[before], centres[after], place - before))
        return torch.from_numpy(chunk), torch.stack(rows)

    def placed(self, frames: np.ndarray, world_from_chunk: list[Sim3]) -> Tensor:
        """Return the camera's centre in the world at frames [M], [M, 3] float64."""
        chunk, points = self.points(frames)
        at = Sim3Batch.stack(world_from_chunk).take(chunk)
        return at.scale[:, None] * (at.rotation @ points[..., None])[..., 0] + at.translation

    def world_from_cam(self, world_from_chunk: list[Sim3]) -> Tensor:
        """Return the cameras of all frames in the world, [S, 3, 4], each as the chunk that provides it says."""
        rows = []
        for number, frames in enumerate(self.layout.provided):
            start = self.layout.ranges[number].start
            own = self.chunk_from_cam[number][frames.start - start : frames.stop - start]
            rows.append(world_from_chunk[number].apply_to_world_from_cam(own))
        return torch.cat(rows)

    def path_scale_std(self, world_from_chunk: list[Sim3]) -> float | None:
        """Return how much the camera's path as a whole may be too long beside the depths, as a share.

        Seams join the depths. In the frames that two neighbours share, the size of the path then differs by what either
        errs; half of the chunks are independent of one another. None for a single chunk, or a camera that stays.
        """
        logs = [
            (earlier.norm() / later.norm()).log().abs() for earlier, later in self._overlaps(world_from_chunk)
        ]
        found = torch.stack(logs) if logs else torch.zeros(0)
        found = found[found.isfinite()]
        if not len(found):
            return None
        return STD_OF_MEDIAN * float(found.median()) / 2**0.5 / max(1.0, len(self.chunk_from_cam) / 2) ** 0.5

    def centre_std(self, world_from_chunk: list[Sim3]) -> float | None:
        """Return the error of one centre along one axis in the world, from what neighbouring chunks say of frames that
        both have; None for a single chunk.
        """
        gaps = [
            (earlier - later).abs().flatten()
            for earlier, later in self._overlaps(world_from_chunk, centred=False)
        ]
        return STD_OF_MEDIAN * float(torch.cat(gaps).median()) / 2**0.5 if gaps else None

    def _overlaps(
        self, world_from_chunk: list[Sim3], *, centred: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield centres [O, 3] of the O frames that neighbours share, as either of the two places them."""
        for number, (one, two) in enumerate(zip(self.layout.ranges, self.layout.ranges[1:], strict=False)):
            num = one.stop - two.start
            earlier = world_from_chunk[number].apply(self.chunk_from_cam[number][-num:, :, 3])
            later = world_from_chunk[number + 1].apply(self.chunk_from_cam[number + 1][:num, :, 3])
            if centred:
                earlier, later = earlier - earlier.mean(dim=0), later - later.mean(dim=0)
            yield earlier, later
