"""What a summary says: sizes of data sets as their indexes tell them, and shares of a mixture by drawing step plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scal3r_data_tools.progress import progress
from scal3r_train.data.index import SequenceIndex
from scal3r_train.data.index_columns import counts_frames, num_named_files, path_lengths
from scal3r_train.data.plan import Source, plan_step
from scal3r_train.data.sources import denied_rows
from scal3r_train.recipe import TrainingRecipe


@dataclass(frozen=True)
class DatasetFacts:
    """The sequences of one data set in one index.

    Attributes:
        name: of the data set.
        licences: all that occur.
        num_sequences, num_frames: how many.
        num_denied: sequences that the deny-list keeps out of training.
        num_missing: frames that are listed but were not there.
        num_synthetic, num_posed: sequences that are rendered, and that have poses.
        num_with_depth: frames that have a depth file.
        hours: length of the videos whose times are real; None when there are none.
        kilometres: camera path of metric videos; None when there are none.
    """

    name: str
    licences: tuple[str, ...]
    num_sequences: int
    num_frames: int
    num_denied: int
    num_missing: int
    num_synthetic: int
    num_posed: int
    num_with_depth: int
    hours: float | None
    kilometres: float | None


@dataclass(frozen=True)
class SourceShare:
    """What one source of a mixture contributes.

    Attributes:
        name: of the source.
        share_of_sequences: of those drawn, exact.
        share_of_frames: of those shown, by drawing.
        frames_per_step: shown in an optimizer step over all ranks, by drawing; frames of overlaps count twice.
        times_seen: how often the run shows each frame of the source, on average.
    """

    name: str
    share_of_sequences: float
    share_of_frames: float
    frames_per_step: float
    times_seen: float


def dataset_facts(index: SequenceIndex) -> list[DatasetFacts]:
    """Return the data sets of an index by name."""
    columns = ("dataset", "licence", "num_missing", "is_synthetic", "is_metric")
    name, licence, missing, synthetic, metric = (np.array(index.column(column)) for column in columns)
    frames, is_denied = np.array(index.num_frames), denied_rows(index)
    is_posed = np.ones(len(index), bool)
    is_posed[index.rows_without("cam_from_world")] = False
    with_depth = num_named_files(index, "depth")
    seconds = np.where(counts_frames(index), np.nan, index.durations_s())
    metres = np.where(metric.astype(bool), path_lengths(index), np.nan)
    found = []
    for dataset in np.unique(name):
        own = name == dataset
        found.append(
            DatasetFacts(
                name=str(dataset),
                licences=tuple(sorted(set(licence[own].tolist()))),
                num_sequences=int(own.sum()),
                num_frames=int(frames[own].sum()),
                num_denied=int(is_denied[own].sum()),
                num_missing=int(missing[own].sum()),
                num_synthetic=int(synthetic[own].sum()),
                num_posed=int(is_posed[own].sum()),
                num_with_depth=int(with_depth[own].sum()),
                hours=_sum_known(seconds[own], 3600),
                kilometres=_sum_known(metres[own], 1000),
            )
        )
    return found


def source_shares(
    recipe: TrainingRecipe, sources: Sequence[Source], world_size: int, num_plans: int
) -> list[SourceShare]:
    """Return the shares of the sources, whose lengths are known, by drawing step plans spread over the whole run.

    Raises UserError when a plan cannot be made.
    """
    curriculum = recipe.curriculum.in_plans(recipe.optim.accumulation_steps)
    run = recipe.optim.num_steps * recipe.optim.accumulation_steps
    steps = np.unique(np.linspace(0, run - 1, min(num_plans, run)).astype(int)).tolist()
    shown = np.zeros(len(sources))
    for step in progress(steps, len(steps), "plans"):
        plan = plan_step(curriculum, sources, recipe.seed, step, world_size)
        for source, num in plan.num_frames().items():
            shown[source] += num
    per_plan = shown / len(steps)
    weights = np.array([source.weight for source in sources])
    available = np.array([0 if s.num_frames is None else s.num_frames.sum() for s in sources])
    return [
        SourceShare(
            name=source.name,
            share_of_sequences=float(weights[place] / weights.sum()),
            share_of_frames=float(shown[place] / shown.sum()),
            frames_per_step=float(per_plan[place] * recipe.optim.accumulation_steps),
            times_seen=float(per_plan[place] * run / max(available[place], 1)),
        )
        for place, source in enumerate(sources)
    ]


def _sum_known(values: np.ndarray, unit: float) -> float | None:
    return float(np.nansum(values)) / unit if np.isfinite(values).any() else None
