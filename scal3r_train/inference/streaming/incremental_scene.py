"""The scene of a stream: extended by one chunk at a time, and after each a complete scene of what there is.

A chunk's frames before those that it will share with the next chunk are final; the others are once that is there, as
in a reconstruction of the whole video. Of final frames cameras and thinned points are kept, of predictions the latest
two.

Shapes: S frames.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from scal3r_train.config import writing
from scal3r_train.inference.alignment.neighbours import align_neighbours, overlap_head
from scal3r_train.inference.alignment.placed_frames import PlacedFrames
from scal3r_train.inference.alignment.placement import Placement
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.chunking import Layout, shared_window
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.state_store import StatePlan
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.progress import Stages
from scal3r_train.inference.publish import publish_scene, scene_info
from scal3r_train.inference.rank_work import RankResult, peak_memory, voxel_size_of, write_placed
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.scene.folder import partial_folder, start_scene_folder
from scal3r_train.scene.point_cloud import VoxelDownsampler
from scal3r_train.scene.scene import DEPTH_NAME, depth_path


class IncrementalScene:
    """What is known of a video so far, and its scene folder."""

    def __init__(
        self,
        output: Path,
        recipe: ReconstructionRecipe,
        model_sha256: str | None,
        stages: Stages,
        device: torch.device,
    ) -> None:
        """Begin an empty scene, computed on `device`; nothing is at `output` before the first `publish`.

        Raises:
            UserError: the folder cannot be made.
        """
        self._output, self._recipe, self._model_sha256, self._stages = output, recipe, model_sha256, stages
        self._device = device
        self._placement: Placement | None = None
        self._previous: ChunkPrediction | None = None
        self._first_extrinsics = torch.zeros(3, 4, dtype=torch.float64)
        self._downsampler: VoxelDownsampler | None = None
        self._final = self._provisional = RankResult.nothing()
        self.is_complete = False
        start_scene_folder(output)

    @property
    def num_chunks(self) -> int:
        """How many chunks have been added."""
        return 0 if self._placement is None else len(self._placement.layout.ranges)

    def add(self, prediction: ChunkPrediction, chunk: range, video: Video) -> Seam | None:
        """Join the next chunk to the scene; return its seam to the chunk before it, None for the first.

        The frames `chunk` must be the last of `chunk_ranges` for all frames up to there.
        """
        recipe = self._recipe
        number = self.num_chunks
        run = self._run(video, Layout.plan(chunk.stop, recipe.schedule, num_processes=1))
        assert run.layout.ranges[number:] == (chunk,), f"{chunk} is not chunk {number}"
        with self._stages.stage("align"):
            placement = self._place_chunk(run.layout, number, prediction)
        step = recipe.schedule.chunk_size - recipe.schedule.overlap
        middle = min(shared_window((number + 1) * step, recipe.schedule).start, chunk.stop)
        with self._stages.stage("place"):
            if self._downsampler is None:
                voxel_size = voxel_size_of(recipe, placement)
                self._downsampler = VoxelDownsampler(voxel_size, recipe.export.max_points, recipe.export.seed)
            for placed in self._newly_final(placement, number, prediction, middle):
                new = write_placed(run, placed)
                self._downsampler.add(new.points)
                self._final = self._final.with_cameras_of(new)
            self._provisional = RankResult.nothing()
            for placed in placement.own_frames(number, prediction, range(middle, chunk.stop), recipe):
                self._provisional = write_placed(run, placed)
        self._placement, self._previous = placement, prediction
        return placement.seams[-1] if placement.seams else None

    def publish(self, video: Video, ended_by: str | None, left_out: list[str]) -> None:
        """Let `output` hold all frames so far; readers find the older scene or this one.

        Args:
            video: begins with the frames that have been added.
            ended_by: why no more frames will come; None while the stream goes on.
            left_out: files that were passed over, for scene.json.
        """
        assert self._placement is not None
        assert self._downsampler is not None
        num_frames = self._placement.layout.ranges[-1].stop
        video = replace(video, frame_indices=video.frame_indices[:num_frames])
        run = self._run(video, self._placement.layout)
        with self._stages.stage("write"):
            final = replace(self._final, points=self._downsampler.result())
            plan = StatePlan("device", 1, 0, 0, "followed: one chunk at a time, nothing waits")
            last = replace(self._provisional, peak_memory_bytes=peak_memory())
            info = scene_info(run, self._placement, [last], plan, None)
            status = {"complete": ended_by is not None, "ended_by": ended_by, "left_out": left_out}
            info = info.model_copy(update={"input": {**info.input, **status}})
            if self._recipe.export.save_depth:
                self._keep_depths(num_frames)
            publish_scene(run, info, [final, self._provisional])
        self.is_complete = ended_by is not None
        if not self.is_complete:
            start_scene_folder(self._output)

    def _run(self, video: Video, layout: Layout) -> ReconstructionRun:
        """Return the reconstruction of the frames so far."""
        return ReconstructionRun(
            video, layout, self._recipe, self._stages, self._output, self._device, self._model_sha256
        )

    def _newly_final(
        self, placement: Placement, number: int, prediction: ChunkPrediction, middle: int
    ) -> Iterator[PlacedFrames]:
        """Yield the frames that chunk `number` shares with the one before it, then its own up to `middle`."""
        start = 0
        if self._previous is not None:
            yield from placement.shared_frames(number - 1, self._previous, prediction, self._recipe)
            start = placement.layout.shared[number - 1].stop
        yield from placement.own_frames(number, prediction, range(start, middle), self._recipe)

    def _place_chunk(self, layout: Layout, number: int, prediction: ChunkPrediction) -> Placement:
        """Return the placement of all chunks so far and this one."""
        if self._placement is None or self._previous is None:
            self._first_extrinsics = prediction.extrinsics[0].clone()
            median_depth = float(prediction.depth.median())
            return Placement.along_seams(layout, [], self._first_extrinsics, median_depth, self._recipe)
        found = align_neighbours(
            {number - 1: self._previous},
            {number: overlap_head(prediction, number, layout.ranges)},
            layout.ranges,
            self._recipe.alignment,
            self._recipe.points,
        )
        return self._placement.extended(layout, found[number - 1], self._first_extrinsics, self._recipe)

    def _keep_depths(self, num_frames: int) -> None:
        """Give the new folder the depth of frames that have not changed, as another name of the same file."""
        partial = partial_folder(self._output)
        (partial / DEPTH_NAME).mkdir(exist_ok=True)
        for frame in range(num_frames):
            new, old = depth_path(partial, frame), depth_path(self._output, frame)
            if not new.exists():
                try:
                    os.link(old, new)
                except OSError:
                    with writing(f"scene {partial}"):
                        shutil.copyfile(old, new)
