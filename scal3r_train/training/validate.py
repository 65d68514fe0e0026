"""Validation by pose and depth error on fixed held-out windows, through the same plan and model call as training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.data.curriculum import CurriculumSettings
from scal3r_train.data.dataset import StepDataset
from scal3r_train.data.plan import StepPlan
from scal3r_train.data.sources import SourceSettings
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.chunk_errors import ERROR_NAMES, chunk_errors
from scal3r_train.training.regression_guard import GuardSettings
from scal3r_train.training.step import checked_batch
from scal3r_train.training.world_means import WorldMeans


class ValidationSettings(StrictModel):
    """The `validation` section of a training recipe."""

    every: int = Field(
        default=0, ge=0, description="steps between validations, the first before step 0; 0: never"
    )
    num_windows: int = Field(
        default=4, ge=1, description="step plans per validation; the same ones every time"
    )
    sources: tuple[SourceSettings, ...] = ()
    curriculum: CurriculumSettings = CurriculumSettings()
    guard: GuardSettings | None = Field(
        default=None, description="ends a run that stays worse than its start"
    )

    @model_validator(mode="after")
    def _check(self) -> ValidationSettings:
        if self.every > 0 and not self.sources:
            raise ValueError(f"every {self.every} needs sources to validate on, or 0 for no validation")
        if self.guard is not None and self.every == 0:
            raise ValueError("guard needs validations to compare; set every, or guard to null")
        if self.curriculum.stages:
            raise ValueError("curriculum.stages: validation sees the same windows every time, without stages")
        return self


def validate(
    engine: Engine,
    groups: ContextGroups,
    plan_of: Callable[[int], StepPlan],
    dataset: StepDataset,
    num_windows: int,
) -> dict[str, float]:
    """Return mean pose and depth errors over all chunks of the validation windows; all ranks call this."""
    was_training = engine.bare_model.training
    engine.bare_model.eval()
    rows = []
    with torch.no_grad():
        for window in range(num_windows):
            batch = checked_batch(dataset[window])
            connect_memories(
                engine.bare_model, groups[plan_of(window).for_rank(engine.process.rank).group.ranks]
            )
            batch = batch.to(engine.process.device)
            rows += chunk_errors(engine.forward(batch.float_images(), batch.chunk_mask), batch)
    engine.bare_model.train(was_training)
    return _mean_over_world(rows, engine.process.device)


def _mean_over_world(rows: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, float]:
    """Return the mean of each key over all ranks' rows; values that are NaN on their own chunk are left out."""
    means = WorldMeans([f"val/{name}" for name in ERROR_NAMES])
    for row in rows:
        for key, value in row.items():
            means.add_unless_nan(key, value)
    return means.reduce(device)
