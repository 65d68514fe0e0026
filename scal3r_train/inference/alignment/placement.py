"""Where all chunks lie in the world, and which chunk decides which frames.

World: the camera of frame 0 (OpenCV axes) in the units of chunk 0, for a user who opens a trajectory expects it to
start at the origin. With `alignment.world: first_chunk` the coordinates of chunk 0, which lie near the camera of its
middle frame, as in the reference release.

Shapes: S frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.alignment.chunk_scales import ChunkScales
from scal3r_train.inference.alignment.fusion import fuse_frames, overlap_shares
from scal3r_train.inference.alignment.placed_frames import PlacedFrames, place_frames
from scal3r_train.inference.alignment.seam import Seam, chain
from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.prediction import ChunkPrediction, SavedPrediction
from scal3r_train.inference.settings import ReconstructionRecipe

Prediction = ChunkPrediction | SavedPrediction


def place_chunks(seams: Sequence[Seam], first_extrinsics: Tensor) -> list[Sim3]:
    """Return world_from_chunk of all chunks.

    Args:
        seams: in order, one fewer than chunks.
        first_extrinsics: [3, 4] cam_from_chunk of frame 0 in chunk 0; its camera becomes the world.
    """
    world_from_first_chunk = Sim3.from_rigid(first_extrinsics)
    return [world_from_first_chunk @ first_from_chunk for first_from_chunk in chain(seams)]


@dataclass(frozen=True, eq=False)
class Placement:
    """Where all chunks lie.

    Attributes:
        layout: which frames each chunk has, and which of them it decides.
        world_from_chunk: of every chunk.
        seams: how each chunk but the first joins the one before it.
        median_depth: of chunk 0, in world units: the size of what the camera sees.
        scales: of all chunks, estimated together; None where each seam's own was taken.
    """

    layout: Layout
    world_from_chunk: list[Sim3]
    seams: list[Seam]
    median_depth: float
    scales: ChunkScales | None = None

    @staticmethod
    def along_seams(
        layout: Layout,
        seams: list[Seam],
        first_extrinsics: Tensor,
        median_depth: float,
        recipe: ReconstructionRecipe,
    ) -> Placement:
        """Return the placement that the seams give, with the scales that chunks have in common if wanted.

        Arguments as in `place_chunks` and the attributes; `recipe` says how scales are estimated.
        """
        scales = ChunkScales.of(seams, recipe.alignment, recipe.pose_graph.noise)
        if recipe.alignment.world == "first_chunk":
            first_extrinsics = torch.eye(3, 4, dtype=torch.float64)
        placement = Placement(layout, place_chunks(seams, first_extrinsics), seams, median_depth, scales)
        return placement if scales is None else placement.moved(scales.first_from_chunk)

    def extended(
        self, layout: Layout, seam: Seam, first_extrinsics: Tensor, recipe: ReconstructionRecipe
    ) -> Placement:
        """Return the placement of one chunk more, for a video that goes on: those that are placed stay where they are.

        Args:
            layout: of all chunks.
            seam: of the new one.
            first_extrinsics: as in `place_chunks`.
            recipe: as in `along_seams`.
        """
        seams = [*self.seams, seam]
        placement = Placement.along_seams(layout, seams, first_extrinsics, self.median_depth, recipe)
        if placement.scales is None:
            return placement
        first = self.world_from_chunk[0].inverse()
        placed = [first @ other for other in self.world_from_chunk]
        scales = placement.scales.after(placed, seam, recipe.pose_graph.noise)
        world = [*self.world_from_chunk, self.world_from_chunk[0] @ scales.first_from_chunk[-1]]
        return replace(placement, scales=scales, world_from_chunk=world)

    def moved(self, first_from_chunk: Sequence[Sim3]) -> Placement:
        """Return the placement with chunks elsewhere relative to the first, which stays."""
        first = self.world_from_chunk[0]
        return replace(self, world_from_chunk=[first @ other for other in first_from_chunk])

    def decided_frames(
        self, number: int, prediction: Prediction, later: Prediction | None, recipe: ReconstructionRecipe
    ) -> Iterator[PlacedFrames]:
        """Yield what chunk `number` decides alone, then what it decides with the `later` one (None after the last)."""
        assert (later is None) == (number == len(self.layout.shared)), f"chunk {number + 1} is missing"
        yield from self.own_frames(number, prediction, self.layout.own[number], recipe)
        if later is not None:
            yield from self.shared_frames(number, prediction, later, recipe)

    def own_frames(
        self, number: int, prediction: Prediction, frames: range, recipe: ReconstructionRecipe
    ) -> Iterator[PlacedFrames]:
        """Yield the frames `frames` of chunk `number` as it alone says; nothing for no frames."""
        if frames:
            start, world = self.layout.ranges[number].start, self.world_from_chunk[number]
            yield place_frames(prediction, start, frames, world, recipe.points)

    def shared_frames(
        self, number: int, earlier: Prediction, later: Prediction, recipe: ReconstructionRecipe
    ) -> Iterator[PlacedFrames]:
        """Yield the frames that chunk `number` and the next one decide together.

        Across a break, where nothing is known of how the two lie to each other, and with `fusion.mode: nearest`, each
        decides those near it.

        Args:
            number: of the earlier chunk.
            earlier, later: predictions of the two, the later one at least of the frames that both have.
            recipe: for the points and the fusion.
        """
        frames = self.layout.shared[number]
        if self.seams[number].quality.method == "break" or recipe.fusion.mode == "nearest":
            middle = self.layout.provided[number + 1].start
            yield from self.own_frames(number, earlier, range(frames.start, middle), recipe)
            yield from self.own_frames(number + 1, later, range(middle, frames.stop), recipe)
            return
        (one,) = self.own_frames(number, earlier, frames, recipe)
        (two,) = self.own_frames(number + 1, later, frames, recipe)
        yield fuse_frames(one, two, overlap_shares(len(frames)), recipe.fusion)
