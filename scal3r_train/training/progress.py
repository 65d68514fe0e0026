"""How far a run has come: what a checkpoint must tell beside tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Progress:
    """Counts of a run, equal on all ranks.

    Attributes:
        step: optimizer steps, skipped ones included; the plan continues with this one.
        num_updates: updates that were made.
        num_skipped: steps that the vote skipped.
        num_skipped_in_a_row: how many of them were the last ones.
        guard: state of the regression guard.
    """

    step: int = 0
    num_updates: int = 0
    num_skipped: int = 0
    num_skipped_in_a_row: int = 0
    guard: Mapping[str, float | None] = field(default_factory=dict)

    def after_step(self, *, is_applied: bool) -> Progress:
        """Return the counts after one more step, applied or skipped."""
        if is_applied:
            return replace(self, step=self.step + 1, num_updates=self.num_updates + 1, num_skipped_in_a_row=0)
        return replace(
            self,
            step=self.step + 1,
            num_skipped=self.num_skipped + 1,
            num_skipped_in_a_row=self.num_skipped_in_a_row + 1,
        )
