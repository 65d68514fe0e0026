"""A data set tied to the plan that every rank follows: from an optimizer step's plan to this rank's chunks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

from scal3r_train.data.curriculum import CurriculumSettings
from scal3r_train.data.dataset import StepDataset
from scal3r_train.data.frame_cache import require_room
from scal3r_train.data.plan import RankPlan, Source, StepPlan, plan_step
from scal3r_train.data.sources import DataSettings, open_sources


@dataclass(frozen=True)
class PlannedData:
    """A data set together with the plan that it follows."""

    sources: list[Source]
    curriculum: CurriculumSettings
    seed: int
    world_size: int
    dataset: StepDataset

    def plan(self, step: int) -> StepPlan:
        """Return the plan of a step."""
        return plan_step(self.curriculum, self.sources, self.seed, step, self.world_size)

    def num_frames(self, plans: Sequence[StepPlan]) -> Counter[str]:
        """Return how many frames plans show of each source, by its name (`short_names`)."""
        names = short_names([source.name for source in self.sources])
        counts: Counter[str] = Counter()
        for plan in plans:
            counts.update({names[source]: num for source, num in plan.num_frames().items()})
        return counts


def plan_data(
    settings: DataSettings, curriculum: CurriculumSettings, seed: int, rank: int, world_size: int
) -> PlannedData:
    """Open the sources and tie them to this rank's part of every step's plan."""
    zoom, stages = settings.augmentation.max_zoom, curriculum.every_stage()
    sizes = [size for stage in stages for size in stage.resolution]
    height, width = max(size.height for size in sizes), max(size.width for size in sizes)
    require_room(settings.cache, math.ceil(height * zoom), math.ceil(width * zoom))
    indexes, sources = open_sources(settings)
    # A partial, not a closure: it has to travel to reading processes where those are not forked.
    plan_of_rank = partial(_plan_of_rank, curriculum, sources, seed, world_size, rank)
    dataset = StepDataset(indexes, plan_of_rank, settings)
    return PlannedData(sources, curriculum, seed, world_size, dataset)


def _plan_of_rank(
    curriculum: CurriculumSettings, sources: list[Source], seed: int, world_size: int, rank: int, step: int
) -> RankPlan:
    return plan_step(curriculum, sources, seed, step, world_size).for_rank(rank)


def short_names(indexes: Sequence[str]) -> list[str]:
    """Return a name for each index: its file without ending, or its folder when all files are called index.

    Sources of the same name are numbered.
    """
    paths = [PurePath(index) for index in indexes]
    names = [path.parent.name if path.stem == "index" and path.parent.name else path.stem for path in paths]
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name) + 1}"
        for place, name in enumerate(names)
    ]
