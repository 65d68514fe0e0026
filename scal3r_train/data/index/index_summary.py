"""What a mixture consists of: data sets with their licences and sizes, for a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scal3r_train.data.index.index import SequenceIndex


@dataclass(frozen=True)
class DatasetSummary:
    """The sequences of one data set under one licence.

    Attributes:
        name, licence, source: as the index says; "" when it does not.
        num_sequences, num_frames: how many.
        hours: length of the videos; 0 for frames that are in no order.
        is_synthetic: whether all of it is rendered.
    """

    name: str
    licence: str
    source: str
    num_sequences: int
    num_frames: int
    hours: float
    is_synthetic: bool


def summarize(indexes: Sequence[SequenceIndex]) -> tuple[DatasetSummary, ...]:
    """Return the data sets of some indexes by name, those of the same name, licence and source together."""
    rows: dict[tuple[str, str, str], list[tuple[int, float, bool]]] = {}
    for index in indexes:
        names = zip(index.column("dataset"), index.column("licence"), index.column("source"), strict=True)
        facts = zip(index.num_frames, index.durations_s(), index.column("is_synthetic"), strict=True)
        for name, fact in zip(names, facts, strict=True):
            rows.setdefault(name, []).append(fact)
    return tuple(
        DatasetSummary(
            *names,
            num_sequences=len(facts),
            num_frames=sum(num_frames for num_frames, _, _ in facts),
            hours=float(np.nansum([seconds for _, seconds, _ in facts])) / 3600,
            is_synthetic=all(is_synthetic for _, _, is_synthetic in facts),
        )
        for names, facts in sorted(rows.items())
    )
