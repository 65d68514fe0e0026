"""The stages of a run's curriculum that it comes to, and the largest step that each can draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.planning.step_size import StepSize
from scal3r_train.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class RunStage:
    """Some consecutive optimizer steps.

    Attributes:
        steps: their numbers.
        largest: the size of the step in which a rank passes most pixels, among all that can be drawn.
    """

    steps: range
    largest: StepSize


def run_stages(recipe: TrainingRecipe) -> list[RunStage]:
    """Return the stages that begin before the run ends; one where the curriculum has none."""
    last = recipe.optim.num_steps
    ends = [last if stage.until is None else stage.until for stage in recipe.curriculum.stages] or [last]
    stages, begin = [], 0
    for end, settings in zip(ends, recipe.curriculum.every_stage(), strict=True):
        if begin < last:
            stages.append(RunStage(range(begin, min(end, last)), largest_size(settings)))
        begin = end
    return stages


def largest_size(settings: CurriculumSettings) -> StepSize:
    """Return the largest of the sizes that steps of one stage can have: each part is drawn by itself."""
    shapes = [shape for shape in settings.resolution if shape.weight > 0]
    largest = max(shapes or settings.resolution, key=lambda shape: (shape.height * shape.width, shape.height))
    return StepSize(
        num_sequences=settings.sequences_per_group,
        num_chunks=_largest_drawn(settings.chunks_per_rank),
        num_frames=_largest_drawn(settings.chunk_size),
        height=largest.height,
        width=largest.width,
    )


def _largest_drawn(weights: Mapping[int, float]) -> int:
    return max(value for value, weight in weights.items() if weight > 0)
