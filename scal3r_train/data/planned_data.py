"""A data set tied to the plan that every rank follows: from an optimizer step's plan to this rank's chunks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from scal3r_train.data.curriculum import CurriculumSettings
from scal3r_train.data.dataset import DataSettings, StepDataset, open_sources
from scal3r_train.data.plan import RankPlan, Source, StepPlan, plan_step


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


def plan_data(
    settings: DataSettings, curriculum: CurriculumSettings, seed: int, rank: int, world_size: int
) -> PlannedData:
    """Open the sources and tie them to this rank's part of every step's plan."""
    indexes, sources = open_sources(settings)
    # A partial, not a closure: it has to travel to reading processes where those are not forked.
    plan_of_rank = partial(_plan_of_rank, curriculum, sources, seed, world_size, rank)
    dataset = StepDataset(indexes, plan_of_rank, curriculum.colour_jitter)
    return PlannedData(sources, curriculum, seed, world_size, dataset)


def _plan_of_rank(
    curriculum: CurriculumSettings, sources: list[Source], seed: int, world_size: int, rank: int, step: int
) -> RankPlan:
    return plan_step(curriculum, sources, seed, step, world_size).for_rank(rank)
