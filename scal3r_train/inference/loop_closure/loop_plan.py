"""Which loop chunks a video gets: candidates by their descriptors, a loop chunk for each, and which process has it.

With `loop_closure.rules: checked` that is known after the chunks are predicted, and loop chunks only read the memories.
With `release` it has to be known before: loop chunks are then among those that write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from scal3r_train.inference.chunking import Layout
from scal3r_train.inference.loop_closure.frame_descriptors import FrameDescriptors
from scal3r_train.inference.loop_closure.retrieval import LoopCandidate, find_loop_candidates
from scal3r_train.inference.loop_closure.windows import (
    DroppedPair,
    LoopWindows,
    loops_are_possible,
    plan_loop_windows,
)
from scal3r_train.inference.prediction import PredictionFolder
from scal3r_train.inference.run import ReconstructionRun
from scal3r_train.inference.settings import ReconstructionRecipe
from scal3r_train.parallel.collectives import from_main, gather_to_all, raise_on_all_ranks


@dataclass(frozen=True)
class LoopPlan:
    """What will be tested.

    Attributes:
        candidates: pairs of frames, most alike first.
        windows: of the loop chunks that test them, in that order.
        dropped: candidates that need none.
    """

    candidates: tuple[LoopCandidate, ...]
    windows: list[LoopWindows]
    dropped: list[DroppedPair]

    def of_chunks(self, chunks: range) -> list[int]:
        """Return the places in `windows` of the loop chunks that belong to the process that holds `chunks`."""
        return [place for place, window in enumerate(self.windows) if window.first_chunk in chunks]

    @property
    def most_frames(self) -> int:
        """Frames of the largest loop chunk, 0 without any."""
        return max((len(window.frames) for window in self.windows), default=0)


def wants_loops(recipe: ReconstructionRecipe, layout: Layout) -> bool:
    """Whether loops are looked for, and there can be one."""
    settings = recipe.loop_closure
    return settings.enabled and (loops_are_possible(layout.ranges) or writes_loops(recipe, layout))


def writes_loops(recipe: ReconstructionRecipe, layout: Layout) -> bool:
    """Whether loop chunks write to the memories too, as in the release."""
    settings = recipe.loop_closure
    return settings.enabled and settings.rules == "release" and len(layout.ranges) > 1


def plan_loops(run: ReconstructionRun, descriptors: FrameDescriptors) -> LoopPlan:
    """Return the plan of a video, the same on every process, all of which must call this.

    Args:
        run: of the video.
        descriptors: of this process's frames; those that are missing are made.

    Raises:
        UserError: on all processes, when a descriptor on any of them is not finite.
    """
    settings, ranges = run.recipe.loop_closure, run.layout.ranges
    with raise_on_all_ranks():
        own = {chunk: descriptors.of(chunk).half() for chunk in run.chunks}
    everyone = {chunk: part for parts in gather_to_all(own) for chunk, part in parts.items()}
    ordered = torch.cat([everyone[chunk].float() for chunk in range(len(ranges))])
    candidates = from_main(lambda: find_loop_candidates(ordered, settings)).candidates
    of_release = settings.rules == "release"
    windows, dropped = plan_loop_windows(
        _pairs(candidates, earlier_first=of_release and settings.descriptor == "thumbnail"),
        ranges,
        settings.window_size,
        allow_shared_frames=of_release,
        spliced=descriptors.measures_motion and not of_release,
    )
    return LoopPlan(candidates, windows, dropped)


def loop_predictions(run: ReconstructionRun) -> PredictionFolder:
    """Return where this process keeps predictions of loop chunks that write, by their place in `LoopPlan.windows`."""
    return PredictionFolder(run.work_folder / "loop_predictions")


def _pairs(candidates: Sequence[LoopCandidate], *, earlier_first: bool) -> list[tuple[int, int]]:
    """Return the frames of every candidate; the release's thumbnails say the earlier one first, its SALAD the later."""
    if earlier_first:
        return [(candidate.earlier, candidate.later) for candidate in candidates]
    return [(candidate.later, candidate.earlier) for candidate in candidates]
