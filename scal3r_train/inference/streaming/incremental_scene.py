"""A scene that grows chunk by chunk and is complete for what it holds after each.

A chunk's frames before those that it will share with the next chunk are settled; the others are once that is there, as
in a reconstruction of the whole video. Of settled frames cameras and thinned points are kept, of predictions the latest
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

from scal3r_train.inference.alignment.placement import PlacedFrames, Placement
from scal3r_train.inference.alignment.seam import Seam
from scal3r_train.inference.alignment.stitch import align_neighbours, overlap_head, place_chunks
from scal3r_train.inference.chunking import Layout, shared_window
from scal3r_train.inference.input.video import Video
from scal3r_train.inference.network.state_store import StatePlan
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.progress import Stages
from scal3r_train.inference.publish import publish_scene, scene_info
from scal3r_train.inference.rank_work import RankResult, peak_memory, voxel_size_of, write_placed
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.scene.folder import partial_folder, start_scene_folder, writing
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
        self._layout: Layout | None = None
        self._placement: Placement | None = None
        self._previous: ChunkPrediction | None = None
        self._first_extrinsics = torch.zeros(3, 4, dtype=torch.float64)
        self._sieve: VoxelDownsampler | None = None
        self._settled = self._tail = RankResult.nothing()
        self.is_complete = False
        start_scene_folder(output)

    @property
    def num_chunks(self) -> int:
        """How many chunks have been added."""
        return 0 if self._layout is None else len(self._layout.ranges)

    def add(self, prediction: ChunkPrediction, chunk: range, video: Video) -> Seam | None:
        """Join the next chunk to the scene; return its seam to the chunk before it, None for the first.

        The frames `chunk` must be the last of `chunk_ranges` for all frames up to there.
        """
        recipe = self._recipe
        layout = Layout.plan(chunk.stop, recipe.schedule, num_processes=1)
        number = self.num_chunks
        assert layout.ranges[number:] == (chunk,), f"{chunk} is not chunk {number}"
        with self._stages.stage("align"):
            placement, seam = self._place_chunk(prediction, number, layout)
        step = recipe.schedule.chunk_size - recipe.schedule.overlap
        middle = min(shared_window((number + 1) * step, recipe.schedule).start, chunk.stop)
        with self._stages.stage("place"):
            if self._sieve is None:
                self._sieve = VoxelDownsampler(
                    voxel_size_of(recipe, placement), recipe.export.max_points, recipe.export.seed
                )
            folder = partial_folder(self._output)
            for placed in self._newly_settled(prediction, number, middle, layout, placement):
                new = write_placed(placed, video, recipe, folder)
                self._sieve.add(new.points)
                self._settled = self._settled.with_cameras_of(new)
            self._tail = RankResult.nothing()
            for placed in placement.own_frames(prediction, number, range(middle, chunk.stop), layout, recipe):
                self._tail = write_placed(placed, video, recipe, folder)
        self._layout, self._placement, self._previous = layout, placement, prediction
        return seam

    def publish(self, video: Video, ended_by: str | None, left_out: list[str]) -> None:
        """Let `output` hold all frames so far; readers find the older scene or this one.

        Args:
            video: begins with the frames that have been added.
            ended_by: why no more frames will come; None while following.
            left_out: files that were passed over, for scene.json.
        """
        assert self._layout is not None
        assert self._placement is not None
        assert self._sieve is not None
        num_frames = self._layout.ranges[-1].stop
        video = replace(video, frame_indices=video.frame_indices[:num_frames])
        with self._stages.stage("write"):
            settled = replace(self._settled, points=self._sieve.result())
            plan = StatePlan("device", 1, 0, 0, "followed: one chunk at a time, nothing waits")
            info = scene_info(
                video,
                self._layout,
                self._placement,
                self._recipe,
                [replace(self._tail, peak_memory_bytes=peak_memory())],
                self._model_sha256,
                self._stages,
                plan,
                self._device,
            )
            status = {"complete": ended_by is not None, "ended_by": ended_by, "left_out": left_out}
            info = info.model_copy(update={"input": {**info.input, **status}})
            if self._recipe.export.save_depth:
                self._keep_depths(num_frames)
            voxel_size = voxel_size_of(self._recipe, self._placement)
            publish_scene(self._output, video, info, [settled, self._tail], self._recipe, voxel_size)
        self.is_complete = ended_by is not None
        if not self.is_complete:
            start_scene_folder(self._output)

    def _newly_settled(
        self, prediction: ChunkPrediction, number: int, middle: int, layout: Layout, placement: Placement
    ) -> Iterator[PlacedFrames]:
        """Yield the frames that chunk `number` shares with the one before it, then its own up to `middle`."""
        start = 0
        if self._previous is not None:
            yield from placement.shared_frames(self._previous, prediction, number - 1, layout, self._recipe)
            start = layout.shared[number - 1].stop
        yield from placement.own_frames(prediction, number, range(start, middle), layout, self._recipe)

    def _place_chunk(
        self, prediction: ChunkPrediction, number: int, layout: Layout
    ) -> tuple[Placement, Seam | None]:
        if self._placement is None or self._previous is None:
            self._first_extrinsics = prediction.extrinsics[0].clone()
            depth = float(prediction.depth.median())
            return Placement(place_chunks([], self._first_extrinsics), [], depth), None
        found = align_neighbours(
            {number - 1: self._previous},
            {number: overlap_head(prediction, number, layout.ranges)},
            layout.ranges,
            self._recipe.alignment,
            self._recipe.points,
        )
        seams = [*self._placement.seams, found[number - 1]]
        world_from_chunk = place_chunks(seams, self._first_extrinsics)
        return Placement(world_from_chunk, seams, self._placement.median_depth), seams[-1]

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
                    with writing(partial):
                        shutil.copyfile(old, new)
