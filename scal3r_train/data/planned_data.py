"""A data set tied to the plan that every rank follows: from an optimizer step's plan to this rank's chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

from scal3r_train.data.curriculum import CurriculumSettings
from scal3r_train.data.dataset import StepDataset
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
        """Return how many frames plans show of each source, named by its file without folder and ending."""
        names = [PurePath(source.name).stem for source in self.sources]
        counts: Counter[str] = Counter()
        for plan in plans:
            for group in plan.groups:
                for window in group.windows:
                    counts[names[window.source]] += window.num_chunks * plan.shape.chunk_size
        return counts


def plan_data(
    settings: DataSettings, curriculum: CurriculumSettings, seed: int, rank: int, world_size: int
) -> PlannedData:
    """Open the sources and tie them to this rank's part of every step's plan."""
    indexes, sources = open_sources(settings)
    # A partial, not a closure: it has to travel to reading processes where those are not forked.
    plan_of_rank = partial(_plan_of_rank, curriculum, sources, seed, world_size, rank)
    dataset = StepDataset(indexes, plan_of_rank, settings)
    return PlannedData(sources, curriculum, seed, world_size, dataset)


def _plan_of_rank(
    curriculum: CurriculumSettings, sources: list[Source], seed: int, world_size: int, rank: int, step: int
) -> RankPlan:
    return plan_step(curriculum, sources, seed, step, world_size).for_rank(rank)
