"""Progress of a run: the counters that a checkpoint keeps beside tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Progress:
    """Counts of a run, equal on all ranks.

    Attributes:
        step: optimizer steps, skipped ones included; the plan continues with this one.
        num_updates: updates that were made.
        num_skipped: steps that the vote skipped.
        num_skipped_in_a_row: how many of them were the last ones.
        guard: state of the regression guard.
        best: the best validation so far.
        early_stopping: state of the early stopping.
        recipe_changes: what was changed in the recipe when the run was resumed: `step`, `key`, `old`, `new` of each.
        num_frames: frames shown so far, by source of the mixture; those of overlaps as often as they were shown.
    """

    step: int = 0
    num_updates: int = 0
    num_skipped: int = 0
    num_skipped_in_a_row: int = 0
    guard: Mapping[str, float | None] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)
    early_stopping: Mapping[str, Any] = field(default_factory=dict)
    recipe_changes: Sequence[Mapping[str, Any]] = ()
    num_frames: Mapping[str, int] = field(default_factory=dict)

    def after_step(self, frames: Mapping[str, int], *, is_applied: bool) -> Progress:
        """Return the counts after one more step that showed these frames, applied or skipped."""
        total = dict(Counter(self.num_frames) + Counter(frames))
        if is_applied:
            return replace(
                self,
                step=self.step + 1,
                num_updates=self.num_updates + 1,
                num_skipped_in_a_row=0,
                num_frames=total,
            )
        return replace(
            self,
            step=self.step + 1,
            num_frames=total,
            num_skipped=self.num_skipped + 1,
            num_skipped_in_a_row=self.num_skipped_in_a_row + 1,
        )

    def frame_counts(self) -> dict[str, int]:
        """Return what the metrics say of the frames shown so far."""
        return {f"data/frames/{name}": num for name, num in sorted(self.num_frames.items())}
