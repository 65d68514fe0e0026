"""How far a run has come: what a checkpoint must tell beside tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Counts of a run, equal on all ranks.

    Attributes:
        step: optimizer steps, skipped ones included; the plan continues with this one.
        num_updates: updates that were made.
        num_skipped: steps that the vote skipped.
        num_skipped_in_a_row: how many of them were the last ones.
    """

    step: int = 0
    num_updates: int = 0
    num_skipped: int = 0
    num_skipped_in_a_row: int = 0
