"""Validation by loss, pose and depth error on fixed held-out windows, through the same plan and model call as training.

Stops a fine-tune that stays worse than what it started from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from scal3r_train.config import StrictModel, UserError
from scal3r_train.data.dataset import StepDataset
from scal3r_train.data.sampling.curriculum import CurriculumSettings
from scal3r_train.data.sampling.plan import StepPlan
from scal3r_train.data.sampling.sources import SourceSettings
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.losses.objective import ObjectiveSettings, compute_terms, rank_loss
from scal3r_train.losses.predictions import Predictions
from scal3r_train.losses.targets import build_targets
from scal3r_train.parallel.collectives import total_over_group
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.best_so_far import HIGHER_IS_BETTER, EarlyStoppingSettings, ValidationMetric
from scal3r_train.training.monitoring.chunk_errors import (
    ERROR_NAMES,
    MEASURED_HEADS,
    chunk_errors,
    real_chunks,
)
from scal3r_train.training.monitoring.world_means import WorldMeans
from scal3r_train.training.step import checked_batch

if TYPE_CHECKING:  # recipes hold settings that lead here, and importing transformers' models takes seconds
    from scal3r_train.model.modeling_scal3r import Scal3ROutput

    Look: TypeAlias = Callable[[int, Scal3ROutput, SequenceBatch], None]

LOSS = "val/loss"


class GuardSettings(StrictModel):
    """The `guard` of the `validation` section."""

    metric: ValidationMetric = Field(
        default="val/rotation_deg", description="which number of the validation is watched"
    )
    ratio: float = Field(
        default=1.1, ge=1, description="worse means by more than this factor than before step 0 [factor]"
    )
    patience: int = Field(
        default=3, ge=1, description="validations in a row that may be worse, the last one ends [validations]"
    )


class RegressionGuard:
    """Compares every validation with the first one; without settings it does nothing.

    Decides from the numbers of the validation alone, which are equal on all ranks, so all ranks decide alike.
    """

    def __init__(self, settings: GuardSettings | None) -> None:
        """Watch as `settings` say."""
        self._settings = settings
        self._reference: float | None = None
        self._num_worse = 0

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a validation; the first ones, before step 0, become the reference.

        Raises:
            UserError: too many in a row were worse, or the first ones lack the metric.
        """
        if self._settings is None:
            return
        metric, ratio, patience = self._settings.metric, self._settings.ratio, self._settings.patience
        value = values.get(metric, math.nan)  # the mean leaves out NaN, and itself when nothing is left
        if self._reference is None:
            if not math.isfinite(value):
                raise UserError(
                    f"validation.guard: {metric} cannot be measured at step {step}; watch another metric, check the "
                    "validation's sources, or set validation.guard=null"
                )
            self._reference = value
            return
        self._num_worse = self._num_worse + 1 if self._is_worse(value, ratio) else 0
        if self._num_worse >= patience:
            raise UserError(
                f"stopped at step {step}: {metric} is {value:.4g} and was {self._reference:.4g} at step 0; worse by "
                f"more than a factor of {ratio:g} in {patience} validations in a row; lower the learning rates or set "
                "validation.guard=null"
            )

    def state(self) -> dict[str, float | None]:
        """Return what a checkpoint must keep, as JSON can hold it."""
        return {"reference": self._reference, "num_worse": self._num_worse}

    def restore(self, state: Mapping[str, float | None]) -> None:
        """Go on from a checkpoint's state; from an empty one (no guard then), the next validation is the first."""
        self._reference = state.get("reference")
        self._num_worse = int(state.get("num_worse") or 0)

    def _is_worse(self, value: float, ratio: float) -> bool:
        """Return whether the value is worse than the reference by more than `ratio`; what is not finite is."""
        assert self._settings is not None
        assert self._reference is not None
        if not math.isfinite(value):
            return True
        if self._settings.metric in HIGHER_IS_BETTER:
            return value * ratio < self._reference
        return value > ratio * self._reference


class ValidationSettings(StrictModel):
    """The `validation` section of a training recipe."""

    every: int = Field(
        default=0, ge=0, description="steps between validations, the first before step 0; 0: never [steps]"
    )
    num_windows: int = Field(
        default=4, ge=1, description="step plans per validation; the same ones every time [step plans]"
    )
    sources: tuple[SourceSettings, ...] = Field(
        default=(), description="the indexes that validation windows are drawn from"
    )
    curriculum: CurriculumSettings = Field(
        default=CurriculumSettings(), description="what validation windows look like; no stages"
    )
    guard: GuardSettings | None = Field(
        default=None, description="ends a run that stays worse than its start"
    )
    early_stopping: EarlyStoppingSettings | None = Field(
        default=None, description="ends a run that gets no better; it then counts as complete"
    )

    @model_validator(mode="after")
    def _check(self) -> ValidationSettings:
        if self.every > 0 and not self.sources:
            raise ValueError(f"every {self.every} needs sources to validate on, or 0 for no validation")
        for name, section in (("guard", self.guard), ("early_stopping", self.early_stopping)):
            if section is not None and self.every == 0:
                raise ValueError(f"{name} needs validations to compare; set every, or {name} to null")
        if self.curriculum.stages:
            raise ValueError("curriculum.stages: validation sees the same windows every time, without stages")
        return self


def validate(
    engine: Engine,
    groups: ContextGroups,
    plan_of: Callable[[int], StepPlan],
    dataset: StepDataset,
    num_windows: int,
    objective: ObjectiveSettings,
    look: Look | None = None,
) -> dict[str, float]:
    """Return means over all chunks of the validation windows: loss, pose and depth errors; all ranks call this.

    The loss is the mean over chunks or sequences that training minimises. `look` is shown, window by window, what the
    model predicted and this rank's batch, both on the device.
    """
    was_training = engine.bare_model.training
    engine.bare_model.eval()
    heads = engine.bare_model.heads_among({*MEASURED_HEADS, *objective.heads})
    rows, losses = [], []
    with torch.no_grad():
        for window in range(num_windows):
            batch = checked_batch(dataset[window])
            group = groups[plan_of(window).for_rank(engine.process.rank).group.ranks]
            connect_memories(engine.bare_model, group)
            over_group = partial(total_over_group, group=group)
            chunks = real_chunks(batch)
            batch = batch.to(engine.process.device)
            output = engine.forward(batch.float_images(), batch.chunk_mask, heads, batch.fov())
            rows += chunk_errors(output, batch, chunks)
            targets = build_targets(batch, objective.normalization, over_group, objective.min_valid_pixels)
            terms = compute_terms(cast(Predictions, output), targets, objective)
            losses.append(rank_loss(terms, objective.average, batch.chunk_mask, over_group))
            if look is not None:
                look(window, output, batch)
    engine.bare_model.train(was_training)
    return _mean_over_world(rows, engine.process.device, losses)


def _mean_over_world(
    rows: Sequence[dict[str, Tensor]],
    device: torch.device,
    losses: Sequence[tuple[Tensor, Tensor]] = (),
) -> dict[str, float]:
    """Return the mean of each key over all ranks' rows; values that are NaN on their own chunk are left out.

    `losses`: sums and numbers; of them a NaN stays, which says that the model is broken.
    """
    means = WorldMeans([LOSS, *(f"val/{name}" for name in ERROR_NAMES)])
    for total, number in losses:
        means.add(LOSS, total, number)
    for row in rows:
        for key, value in row.items():
            means.add_unless_nan(key, value)
    return means.reduce(device)
