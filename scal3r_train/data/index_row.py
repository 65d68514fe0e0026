"""One row of an index: a `SequenceRecord` as Parquet columns, one column a field, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow

from scal3r_train.data.sequence import PackedFrames, SequenceRecord

_TEXT, _FLAG = datasets.Value("string"), datasets.Value("bool")
_FLOAT = datasets.Value("float64")

FEATURES = datasets.Features(
    {
        "dataset": _TEXT,
        "sequence_id": _TEXT,
        "split": _TEXT,
        "root": _TEXT,
        "packed_row": datasets.Value("int64"),
        "num_frames": datasets.Value("int32"),
        "image": datasets.List(_TEXT),
        "depth": datasets.List(_TEXT),
        "depth_codec": _TEXT,
        "depth_scale": _FLOAT,
        "mask": datasets.List(_TEXT),
        "mask_rule": _TEXT,
        "sky_mask": datasets.List(_TEXT),
        "sky_mask_rule": _TEXT,
        "camera_model": _TEXT,
        "intrinsics": datasets.List(datasets.List(_FLOAT, length=4)),
        "distortion": datasets.List(datasets.List(_FLOAT)),
        "cam_from_world": datasets.List(datasets.List(_FLOAT, length=12)),
        "timestamp": datasets.List(_FLOAT),
        "image_size": datasets.List(datasets.List(datasets.Value("int32"), length=2)),
        "pixel_centre": _TEXT,
        "quarter_turns": datasets.Value("int32"),
        "covisible": datasets.List(datasets.List(datasets.Value("int32"))),
        "num_missing": datasets.Value("int32"),
        "is_ordered": _FLAG,
        "is_metric": _FLAG,
        "is_synthetic": _FLAG,
        "is_dynamic": _FLAG,
        "max_depth": _FLOAT,
        "max_depth_percentile": _FLOAT,
        "licence": _TEXT,
        "source": _TEXT,
    }
)

POSE = (3, 4)
PACKED_ROW = (
    "packed_row"  # first row of the sequence's frames in the Parquet file `root`; -1: files are below root
)


def row_from_record(record: SequenceRecord, folder: Path) -> dict[str, Any]:
    """Return the values of a row of an index that lies in `folder`; `root` becomes relative if it is below it."""
    root, base = Path(os.path.abspath(record.root)), Path(os.path.abspath(folder))
    place = root.relative_to(base) if root.is_relative_to(base) else root
    values = {name: value for name, value in vars(record).items() if name != "packed"}
    row = {name: _plain(value) for name, value in values.items()}
    for name, value in row.items():
        if isinstance(value, list) and value:
            assert len(value) == record.num_frames, (
                f"{name} of {record.sequence_id}: {len(value)} of {record.num_frames} frames"
            )
    first_row = -1 if record.packed is None else record.packed.first_row
    return row | {"root": place.as_posix(), "num_frames": record.num_frames, PACKED_ROW: first_row}


def record_from_row(row: pyarrow.Table, folder: str) -> SequenceRecord:
    """One-row Arrow table of an index in `folder`, a path or URL -> record.

    Numbers are taken over as arrays, without a detour through Python objects.
    """
    values = {name: _value(row, name) for name in FEATURES if name not in ("num_frames", PACKED_ROW)}
    poses, first_row = values["cam_from_world"], _value(row, PACKED_ROW)
    location = os.path.join(folder, values["root"])
    return SequenceRecord(
        **values
        | {
            "root": Path(os.path.normpath(location)),
            "packed": PackedFrames(location, first_row) if first_row >= 0 else None,
            "cam_from_world": None if poses is None else poses.reshape(-1, *POSE),
        }
    )


def _plain(value: Any) -> Any:
    """What pyarrow stores; nothing known is an empty list."""
    if value is None:
        return []
    if isinstance(value, np.ndarray):
        return (value.reshape(len(value), -1) if value.ndim > 2 else value).tolist()
    return list(value) if isinstance(value, tuple) else value


def _value(row: pyarrow.Table, name: str) -> Any:
    """The field of a record: a scalar, a tuple of texts, an array [S] or [S, D], or None for an array without rows."""
    feature, cell = FEATURES[name], row.column(name)[0]
    if not isinstance(feature, datasets.List):
        return cell.as_py()
    if feature.feature == _TEXT:
        return tuple(cell.as_py())
    is_nested = isinstance(feature.feature, datasets.List)
    width = len(cell[0]) if is_nested and len(cell) else 1
    values = row.column(name).combine_chunks().flatten()
    while pyarrow.types.is_nested(values.type):
        values = values.flatten()
    if not len(values):
        return None if is_nested else np.empty(0)
    array = values.to_numpy(zero_copy_only=False).copy()
    array = array.astype(np.int64) if array.dtype.kind == "i" else array
    return array.reshape(-1, width) if is_nested else array
