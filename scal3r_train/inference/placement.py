"""Where chunks lie in the world, and with them their frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from scal3r_train.geometry.sim3 import Sim3
from scal3r_train.inference.align import Seam
from scal3r_train.inference.fuse import fuse_frames, overlap_shares
from scal3r_train.inference.layout import Layout
from scal3r_train.inference.placed_frames import PlacedFrames, place_frames
from scal3r_train.inference.prediction import ChunkPrediction
from scal3r_train.inference.prediction_files import SavedPrediction
from scal3r_train.inference.settings import ReconstructionRecipe

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
