"""Sizes and licences of a mixture, added up by data set."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scal3r_train.data.index.index import load_index, summarize, write_index
from scal3r_train.data.sequence import SequenceRecord


def record(name: str, times: list[float], **fields: object) -> SequenceRecord:
    num = len(times)
    return SequenceRecord(
        dataset="a",
        sequence_id=name,
        root=Path("/nowhere"),
        image=tuple(f"{frame}.png" for frame in range(num)),
        image_size=np.full((num, 2), 8),
        timestamp=np.array(times),
        **fields,
    )


def test_sequences_are_added_up_by_name_licence_and_source(tmp_path: Path) -> None:
    first = [
        record("one", [10.0, 11.0, 46.0], licence="CC-BY-4.0"),
        record("two", [0.0, 324.0], licence="CC-BY-4.0", is_synthetic=True),
        replace(record("three", [0.0]), dataset="b", is_synthetic=True),
    ]
    second = [
        record("four", [5.0, 1.0, 900.0], licence="CC-BY-4.0", is_ordered=False),
        record("five", [0.0, 3600.0], licence="MIT"),
    ]
    for place, records in enumerate((first, second)):
        write_index(tmp_path / f"{place}.parquet", records)
    indexes = [load_index(tmp_path / f"{place}.parquet", tmp_path) for place in (0, 1)]
    by_attribution, free, b = summarize(indexes)
    assert (by_attribution.name, by_attribution.licence, by_attribution.source) == ("a", "CC-BY-4.0", "")
    assert (by_attribution.num_sequences, by_attribution.num_frames) == (3, 8)
    assert by_attribution.hours == pytest.approx((36 + 324) / 3600), "frames in no order have no length"
    assert not by_attribution.is_synthetic
    assert (free.licence, free.num_frames, free.hours) == ("MIT", 2, pytest.approx(1.0))
    assert (b.name, b.num_frames, b.hours, b.is_synthetic) == ("b", 1, 0.0, True)
    (only,) = summarize(indexes, [[False, True, False], [True, False]])
    assert (only.licence, only.num_sequences, only.num_frames) == ("CC-BY-4.0", 2, 5)
