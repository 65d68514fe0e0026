"""Validation by pose and depth error on fixed held-out windows, through the same plan and model call as training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field, model_validator
from torch import Tensor

from scal3r_train.config import StrictModel
from scal3r_train.data.curriculum import CurriculumSettings
from scal3r_train.data.dataset import SourceSettings, StepDataset
from scal3r_train.data.plan import StepPlan
from scal3r_train.data.sequence import SequenceBatch
from scal3r_train.geometry.pose_encoding import decode_pose
from scal3r_train.metrics.depth import abs_rel_after_median
from scal3r_train.metrics.relative_pose import pose_auc, relative_pose_errors_deg
from scal3r_train.parallel.collectives import total_over_world
from scal3r_train.parallel.context_groups import ContextGroups, connect_memories
from scal3r_train.parallel.engine import Engine
from scal3r_train.training.step import checked_batch

if TYPE_CHECKING:  # recipes hold these settings, and importing transformers' models takes seconds
    from scal3r_train.model.modeling_scal3r import Scal3ROutput

AUC_THRESHOLDS_DEG = (5, 30)


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

    @model_validator(mode="after")
    def _check(self) -> ValidationSettings:
        if self.every > 0 and not self.sources:
            raise ValueError(f"every {self.every} needs sources to validate on, or 0 for no validation")
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
            rows += chunk_errors(engine.forward(batch.images, batch.chunk_mask), batch)
    engine.bare_model.train(was_training)
    return _mean_over_world(rows, engine.process.device)


def chunk_errors(output: Scal3ROutput, batch: SequenceBatch) -> list[dict[str, Tensor]]:
    """Return the errors of every real chunk: rotation and direction in degrees, AUC, depth AbsRel."""
    size = (batch.images.shape[-2], batch.images.shape[-1])
    rows = []
    for sequence, chunk in batch.chunk_mask.nonzero().tolist():
        row = {}
        if isinstance(output.pose_encoding, Tensor):
            extrinsics, _ = decode_pose(output.pose_encoding[sequence, chunk], size)
            rotation, direction = relative_pose_errors_deg(extrinsics, batch.extrinsics[sequence, chunk])
            row = {"val/rotation_deg": rotation.mean(), "val/direction_deg": direction.nanmean()}
            row |= {f"val/auc_{limit}": pose_auc(rotation, direction, limit) for limit in AUC_THRESHOLDS_DEG}
        if isinstance(output.depth, Tensor):
            row["val/abs_rel"] = abs_rel_after_median(
                output.depth[sequence, chunk], batch.depth[sequence, chunk]
            )
        rows.append(row)
    return rows


def _mean_over_world(rows: Sequence[dict[str, Tensor]], device: torch.device) -> dict[str, float]:
    """Return the mean of each key over all ranks' rows; values that are NaN on their own chunk are left out."""
    keys = [
        "val/rotation_deg",
        "val/direction_deg",
        *(f"val/auc_{limit}" for limit in AUC_THRESHOLDS_DEG),
        "val/abs_rel",
    ]
    sums = torch.zeros(len(keys), 2, dtype=torch.float64, device=device)
    for row in rows:
        for place, key in enumerate(keys):
            if key in row and not row[key].isnan():
                sums[place] += torch.stack([row[key].double(), row[key].new_ones(()).double()])
    totals = total_over_world(sums)
    return {key: float(total / count) for key, (total, count) in zip(keys, totals, strict=True) if count > 0}
